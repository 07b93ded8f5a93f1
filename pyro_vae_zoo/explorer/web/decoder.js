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
  relu: h => h.map(v => Math.max(v, 0)),
  elu: h => h.map(v => v > 0 ? v : Math.expm1(v)),
  tanh: h => h.map(Math.tanh),
  sigmoid: h => h.map(sigmoid),
  silu: h => h.map(v => v * sigmoid(v)),
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
};
const run = (layers, h) => layers.reduce((value, step) => ops[step.op](value, step), h);
const decode = z => run(contents.layers, Float64Array.from(z));
