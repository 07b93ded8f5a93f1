// --------------------------- a datum: an image, or a vector as a curve; on the data's scale

const [low, high] = contents.limits, isVector = contents.shape.length === 1;
const [channels, height, width] = isVector ? [1, 1, 1] : contents.shape;
const share = v => (v - low) / (high - low);
const valuesOf = ({image}) =>
  image instanceof Uint8Array ? Array.from(image, v => v / 255) : image;
const plain = v => String(+v.toPrecision(9)).replace("-", "−");
const MODEL = "#4e79a7", AIR = .06;  // of the scale, above and below curves

function paint(canvas, values, left = 0, top = 0) {  // channel by channel
  const pixels = new ImageData(width, height), n = width * height;
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) {
      pixels.data[4 * i + c] = Math.round(255 * share(values[channels === 3 ? c * n + i : i]));
    }
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, left, top);
}

function curve(pen, values, box, ink, line) {  // clipped to its box
  const {left, top, across, down} = box, last = Math.max(values.length - 1, 1);
  const place = (v, i) =>
    [left + across * i / last, top + down * (1 + AIR - share(v)) / (1 + 2 * AIR)];
  pen.save();
  pen.beginPath();
  pen.rect(left - 3 * line, top, across + 6 * line, down);
  pen.clip();
  Object.assign(pen, {strokeStyle: ink, fillStyle: ink, lineWidth: line, lineJoin: "round"});
  pen.beginPath();
  values.forEach((v, i) => pen[i ? "lineTo" : "moveTo"](...place(v, i)));
  pen.stroke();
  for (let i = 0; values.length <= 30 && i < values.length; i++) {
    pen.beginPath();
    pen.arc(...place(values[i], i), 1.7 * line, 0, 2 * Math.PI);
    pen.fill();
  }
  pen.restore();
}

function ticks(from, to, most) {
  const rough = (to - from) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= .999 * rough);
  const first = Math.ceil(from / step), count = Math.floor(to / step + 1e-9) - first + 1;
  return Array.from({length: count}, (_, i) => (first + i) * step);
}

function plot(canvas, curves) {  // with axes, as sharp as the screen
  const style = getComputedStyle(canvas), css = name => style.getPropertyValue(name).trim();
  const unit = devicePixelRatio, pen = canvas.getContext("2d");
  Object.assign(canvas, {width: Math.max(canvas.clientWidth, 1) * unit,
    height: Math.max(canvas.clientHeight, 1) * unit});
  pen.font = `${11 * unit}px system-ui, sans-serif`;
  const marks = ticks(low - AIR * (high - low), high + AIR * (high - low), 5);
  const margin = Math.max(...marks.map(v => pen.measureText(plain(v)).width)) + 7 * unit;
  const box = {left: margin, top: 8 * unit, across: canvas.width - margin - 10 * unit,
    down: canvas.height - 28 * unit};
  Object.assign(pen, {fillStyle: css("--soft"), strokeStyle: css("--line"), lineWidth: unit});
  pen.textAlign = "right";
  for (const v of marks) {
    const y = box.top + box.down * (1 + AIR - share(v)) / (1 + 2 * AIR);
    pen.fillText(plain(v), margin - 5 * unit, y + 4 * unit);
    pen.beginPath(); pen.moveTo(margin, y); pen.lineTo(margin + box.across, y); pen.stroke();
  }
  const last = contents.shape[0] - 1, bottom = canvas.height - 6 * unit;
  pen.textAlign = "center";
  for (const i of ticks(0, Math.max(last, 1), 4).filter(i => i <= last && i % 1 === 0)) {
    pen.fillText(plain(i), margin + box.across * i / Math.max(last, 1), bottom);
  }
  for (const {values, ink, line} of curves) {
    curve(pen, values, box, css(ink) || ink, line * unit);
  }
}

// --------------------------------------------------------- the places where data are shown

const tileSize = isVector ? [64, 64] : [width, height];

function drawTile(canvas, values, left, top) {
  const [across, down] = tileSize, box = {left, top, across, down};
  if (isVector) curve(canvas.getContext("2d"), values, box, MODEL, 1.4);
  else paint(canvas, values, left, top);
}

function drawThumbnail(canvas, datum) {
  const size = 2 * tileSize[0], box = {left: 6, top: 6, across: size - 12, down: size - 12};
  if (!isVector) return paint(canvas, valuesOf(datum));
  Object.assign(canvas, {width: size, height: size});
  curve(canvas.getContext("2d"), valuesOf(datum), box, MODEL, 4);
}

function drawDecoded(values, datum) {  // over a picked vector, which has no other place
  if (!isVector) return paint($("decoded"), values);
  const under = datum ? [{values: valuesOf(datum), ink: "--soft", line: 1.2}] : [];
  plot($("decoded"), [...under, {values, ink: MODEL, line: 1.8}]);
}

const where = contents.table ? "beforehand, in the plane" : "here";
const captionOfDecoded = `${contents.decoded}, decoded ${where}` + (isVector
  ? " (blue), by the number of the feature" : contents.note && `; ${contents.note}`);

function shaped(canvas) {
  if (isVector) canvas.className = "curve";
  else {
    Object.assign(canvas, {width, height});
    canvas.style.aspectRatio = width / height;
  }
  return canvas;
}
