// --------------------------------------------------- where we are, in coordinates u

const size = contents.centre.length;
const at = {u: new Float64Array(size), datum: null, draw: -1, only: null, tiles: false};
const picked = () => at.datum === null ? null : contents.data[at.datum];
const drawOf = ({code, draws}, k) => code.map((v, i) => v + draws[k * size + i]);

function latent(u) {
  const z = Float64Array.from(contents.centre);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) z[j] += u[i] * contents.axes[i * size + j];
  }
  return z;
}

function pick(k) {
  Object.assign(at, {datum: k, draw: -1});
  if (k === null) at.u.fill(0, 2);  // back to the plane through the mean
  else at.u.set(picked().code);
  document.querySelectorAll("#strip input").forEach((dot, i) => { dot.checked = i === k; });
  refresh();
}

function move(point) {  // in the plane
  at.draw = -1;
  at.u.set(point);
  refresh();
}

function seeAll() {
  const reach = contents.codes.reduce((most, v) => Math.max(most, Math.abs(v)), 1);
  at.view = {x: 0, y: 0, half: 1.08 * reach};
  refresh();
}

function seePosterior() {
  const {code, draws} = picked(), offsets = draws.filter((v, i) => i % size < 2);
  const reach = offsets.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-3);
  at.view = {x: code[0], y: code[1], half: 1.3 * reach};
  refresh();
}

function zoom(factor, [x, y] = at.u) {  // that point stays where it is
  const {view} = at;
  factor = Math.min(Math.max(factor, 1e-3 / view.half), 1e3 / view.half);
  const near = (v, c) => v + (c - v) * factor;
  at.view = {x: near(x, view.x), y: near(y, view.y), half: view.half * factor};
  refresh();
}

// -------------------------------------------------------------- the whole plane decoded

const tiles = {canvas: document.createElement("canvas"), of: "", side: 15, next: 0};
const PATIENCE = 100;  // milliseconds of a frame; a slow decoder has several for all tiles

function tilesOfView() {
  const {canvas, side} = tiles, {x, y, half} = at.view, step = 2 * half / side;
  const [across, down] = tileSize, gap = Math.ceil(Math.max(down, across) / 14);
  const u = at.u.slice(), of = [x, y, half, ...u.subarray(2)].join();
  if (tiles.of !== of) {
    Object.assign(tiles, {of, next: 0});
    Object.assign(canvas, {width: side * (across + gap), height: side * (down + gap)});
  }
  const until = performance.now() + PATIENCE;
  for (; tiles.next < side * side && performance.now() < until; tiles.next++) {
    const i = Math.floor(tiles.next / side), j = tiles.next % side;
    u.set([x - half + (j + .5) * step, y + half - (i + .5) * step]);
    const left = j * (across + gap) + gap / 2, top = i * (down + gap) + gap / 2;
    drawTile(canvas, decode(latent(u)), left, top);
  }
  if (tiles.next < side * side) refresh();
  return canvas;
}

// ---------------------------------------------------------------------- the plane

const plane = $("plane"), pen = plane.getContext("2d");
const COLOURS = ["#4e79a7", "#f28e2b", "#e15759", "#3aa6a0", "#59a14f",
  "#c9a227", "#b07aa1", "#ff7f9f", "#9c755f", "#8a9099"];
const colour = k => contents.classes.length <= COLOURS.length
  ? COLOURS[k] : `hsl(${360 * k / contents.classes.length} 60% 55%)`;
const axis = i => size === 2 ? `z${"₁₂"[i - 1]}` : `axis ${i}`;

function pixel(x, y) {
  const {view} = at, n = plane.width, scale = n / (2 * view.half);
  return [n / 2 + (x - view.x) * scale, n / 2 - (y - view.y) * scale];
}

function pointAt({clientX, clientY}) {
  const box = plane.getBoundingClientRect(), {view} = at, scale = 2 * view.half / box.width;
  return [view.x + (clientX - box.left - box.width / 2) * scale,
    view.y - (clientY - box.top - box.height / 2) * scale];
}

function outline(lines, code) {
  pen.beginPath();
  for (const line of lines) {
    for (let i = 0; i < line.length; i += 2) {
      pen[i ? "lineTo" : "moveTo"](...pixel(code[0] + line[i], code[1] + line[i + 1]));
    }
  }
}

function circle(x, y, radius) {
  pen.beginPath();
  pen.arc(...pixel(x, y), radius, 0, 2 * Math.PI);
}

function drawGrid(unit, css) {
  const {x, y, half} = at.view, n = plane.width, power = 10 ** Math.floor(Math.log10(half / 2));
  const step = [5, 2, 1].map(m => m * power).find(s => s <= half / 2);
  const first = centre => Math.ceil((centre - half) / step);
  Object.assign(pen, {lineWidth: unit, strokeStyle: css("--line"), fillStyle: css("--soft")});
  pen.font = `${11 * unit}px system-ui, sans-serif`;
  pen.beginPath();
  for (let i = first(x); i * step < x + half; i++) {
    const [left] = pixel(i * step, 0);
    pen.moveTo(left, 0); pen.lineTo(left, n);
    if (left < n - 70 * unit) pen.fillText(plain(i * step), left + 4 * unit, n - 6 * unit);
  }
  for (let i = first(y); i * step < y + half; i++) {
    const [, top] = pixel(0, i * step);
    pen.moveTo(0, top); pen.lineTo(n, top);
    if (top > 34 * unit) pen.fillText(plain(i * step), 6 * unit, top - 4 * unit);
  }
  pen.stroke();
  pen.fillText(axis(1), n - pen.measureText(axis(1)).width - 8 * unit, n - 6 * unit);
  pen.fillText(axis(2), 6 * unit, 15 * unit);
}

function drawCodes(unit, css) {
  const {codes, labels} = contents, radius = (codes.length > 4000 ? 1.7 : 3) * unit;
  pen.globalAlpha = at.tiles ? .2 : picked() ? .3 : .8;
  for (let i = 0; i < codes.length / 2; i++) {
    if (labels && at.only !== null && labels[i] !== at.only) continue;
    pen.fillStyle = labels ? colour(labels[i]) : css("--soft");
    circle(codes[2 * i], codes[2 * i + 1], radius);
    pen.fill();
  }
  pen.globalAlpha = 1;
}

function drawPosterior({code, draws, exact = [], guide = []}, unit, css) {
  Object.assign(pen, {fillStyle: css("--exact"), globalAlpha: .2});
  for (const region of exact) { outline(region, code); pen.fill("evenodd"); }
  Object.assign(pen, {fillStyle: css("--guide"), globalAlpha: .6});
  for (let k = 0; k < draws.length; k += size) {
    circle(code[0] + draws[k], code[1] + draws[k + 1], 1.8 * unit);
    pen.fill();
  }
  Object.assign(pen, {strokeStyle: css("--guide"), lineWidth: 1.4 * unit, globalAlpha: 1});
  for (const region of guide) { outline(region, code); pen.stroke(); }
}

function drawPlane() {
  const style = getComputedStyle(document.documentElement), unit = devicePixelRatio;
  const css = name => style.getPropertyValue(name).trim();
  plane.width = plane.height = Math.round(plane.clientWidth * unit);
  pen.imageSmoothingEnabled = isVector;
  if (at.tiles) pen.drawImage(tilesOfView(), 0, 0, plane.width, plane.height);
  else drawGrid(unit, css);
  drawCodes(unit, css);
  if (picked()) drawPosterior(picked(), unit, css);
  for (const [wide, ink] of [[5, "--card"], [2.2, "--ink"]]) {
    Object.assign(pen, {lineWidth: wide * unit, strokeStyle: css(ink)});
    circle(at.u[0], at.u[1], 8 * unit);
    pen.stroke();
  }
}
