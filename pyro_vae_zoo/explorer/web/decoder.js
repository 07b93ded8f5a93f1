"use strict";  // what stands in the page, and the decoder
const $ = id => document.getElementById(id);

// ---------------------------------------------- arrays, as `portable.pack` packs them

function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (!exponent) return sign * fraction * 2 ** -24;
  return sign * 2 ** (exponent - 15) * (1 + fraction / 1024);
}

function unpack({dtype, shape, data}) {
  const buffer = Uint8Array.from(atob(data), c => c.charCodeAt(0)).buffer;
  const kinds = {float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array};
  const values = dtype === "float16"
    ? Float32Array.from(new Uint16Array(buffer), half) : new kinds[dtype](buffer);
  return Object.assign(values, {shape});
}

const contents = JSON.parse(
  $("contents").textContent, (key, value) => value?.dtype ? unpack(value) : value);

// --------------------------------------- the decoder, as `portable.apply` computes it

const sigmoid = v => 1 / (1 + Math.exp(-v));
const softplus = v => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));

function meanLevel(centre, scale) {  // the sum of P(x >= k / 255) over k, by 255
  // The odds against it rise with k by one factor: no exponential for each k. From the
  // middle outwards, where a product that leaves the range of numbers is 0 or infinite.
  const odds = k => Math.exp(((k - .5) / 255 - centre) / scale);
  const middle = Math.round(255 * centre), factor = Math.exp(1 / (255 * scale));
  let sum = 0;
  for (let k = middle + 1, o = odds(k); k <= 255; k++, o *= factor) sum += 1 / (1 + o);
  for (let k = middle, o = odds(k); k >= 1; k--, o /= factor) sum += 1 / (1 + o);
  return sum / 255;
}

const ops = {
  linear(h, {weight, bias}) {
    const [rows, columns] = weight.shape, out = new Float64Array(rows);
    for (let i = 0, k = 0; i < rows; i++) {
      let sum = bias ? bias[i] : 0;
      for (let j = 0; j < columns; j++) sum += weight[k++] * h[j];
      out[i] = sum;
    }
    return out;
  },
  // Each weight joins places of the smaller image to those of the larger one.
  conv(h, {weight, bias, transposed, from, to, stride, padding}) {
    const out = new Float64Array(to[0] * to[1] * to[2]), [outs, ins, ...kernel] = weight.shape;
    const [small, large] = transposed ? [from, to] : [to, from];
    const range = (axis, k) => {  // of places whose partners are in the larger image
      const shift = padding[axis] - k, step = stride[axis];
      return [Math.max(Math.ceil(shift / step), 0),
        Math.min(Math.floor((large[axis + 1] - 1 + shift) / step), small[axis + 1] - 1)];
    };
    for (let o = 0, w = 0; o < outs; o++) {
      const plane = out.subarray(o * to[1] * to[2], (o + 1) * to[1] * to[2]);
      if (bias) plane.fill(bias[o]);
      for (let c = 0; c < ins; c++) {
        const image = h.subarray(c * from[1] * from[2], (c + 1) * from[1] * from[2]);
        for (let i = 0; i < kernel[0]; i++) {
          for (let j = 0; j < kernel[1]; j++, w++) {
            const [top, bottom] = range(0, i), [left, right] = range(1, j), v = weight[w];
            for (let y = top; y <= bottom; y++) {
              const row = (y * stride[0] - padding[0] + i) * large[2] - padding[1] + j;
              for (let x = left; x <= right; x++) {
                const a = y * small[2] + x, b = row + x * stride[1];
                if (transposed) plane[b] += v * image[a];
                else plane[a] += v * image[b];
              }
            }
          }
        }
      }
    }
    return out;
  },
  norm(h, {weight, bias, eps}) {
    const mean = h.reduce((sum, v) => sum + v, 0) / h.length;
    const variance = h.reduce((sum, v) => sum + (v - mean) ** 2, 0) / h.length;
    const scale = 1 / Math.sqrt(variance + eps);
    return h.map((v, i) => (v - mean) * scale * (weight ? weight[i] : 1) + (bias ? bias[i] : 0));
  },
  relu: h => h.map(v => Math.max(v, 0)),
  elu: h => h.map(v => v > 0 ? v : Math.expm1(v)),
  tanh: h => h.map(Math.tanh),
  sigmoid: h => h.map(sigmoid),
  silu: h => h.map(v => v * sigmoid(v)),
  softplus: h => h.map(softplus),
  exp: (h, {bound}) => h.map(v => Math.exp(Math.min(Math.max(v, -bound), bound))),
  glu(h) {
    const n = h.length / 2;
    return h.subarray(0, n).map((v, i) => v * sigmoid(h[n + i]));
  },
  residual(h, {shortcut, net}) {
    const added = run(net, h);
    return run(shortcut, h).map((v, i) => v + added[i]);
  },
  affine: (h, {scale, shift}) =>  // one of each, or one for each element
    h.map((v, i) => (scale[i] ?? scale) * v + (shift[i] ?? shift)),
  levels(h, {fresh, floor}) {
    const n = h.length / 2, scale = v => Math.exp(floor + softplus(v + fresh - floor));
    return h.subarray(0, n).map((v, i) => meanLevel(sigmoid(v), scale(h[n + i])));
  },
  table(h, {centre, axes, half, side, values}) {  // interpolated between four points
    const [, size] = values.shape, last = side - 1;
    const [[i, right], [j, up]] = [0, 1].map(axis => {
      const u = h.reduce((sum, v, d) => sum + (v - centre[d]) * axes[axis * h.length + d], 0);
      const place = Math.min(Math.max((u / half + 1) / 2 * last, 0), last);
      const start = Math.min(Math.floor(place), last - 1);
      return [start, place - start];
    });
    const at = (a, b, k) => values[((i + a) * side + j + b) * size + k];
    const mix = (b, k) => (1 - right) * at(0, b, k) + right * at(1, b, k);
    return Float64Array.from({length: size}, (_, k) => (1 - up) * mix(0, k) + up * mix(1, k));
  },
};
const run = (layers, h) => layers.reduce((value, step) => ops[step.op](value, step), h);
const decode = z => run(contents.layers, Float64Array.from(z));
