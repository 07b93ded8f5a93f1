// -------------------------------------------------------------- what is said of it

const number = v => v.toFixed(2).replace("-", "−");
const list = values => Array.from(values.slice(0, 6), number).join(", ")
  + (values.length > 6 ? ", …" : "");

function say(parent, tag, text, name = "") {
  const element = document.createElement(tag);
  Object.assign(element, {textContent: text, className: name});
  parent.append(element, " ");
  return element;
}

function entries({elbo, log_prob, khat, gap}) {
  const nats = v => `${number(v)} nats`, doubt = khat > .7 ? ", above 0.7: do not trust log p" : "";
  const rows = [["ELBO", nats(elbo)]];
  rows.push(["log p(x)", `${nats(log_prob)}, ${contents.num_samples} particles`]);
  if (khat !== null) rows.push(["k-hat", number(khat) + doubt]);
  else if (contents.num_samples > 20) rows.push(["k-hat", "no fit: do not trust log p"]);
  if (gap !== undefined) rows.push(["KL(q ‖ p)", `${nats(gap)}, by quadrature`]);
  return rows;
}

function describe(datum) {
  const {labels, classes, masses} = contents;
  const label = labels ? `, class ${classes[labels[datum.index]]}` : "";
  $("name").textContent = `x, datum ${datum.index}${label}${isVector ? " (grey)" : ""}`;
  $("image").setAttribute("aria-label", $("name").textContent);
  if (!isVector) paint($("image"), valuesOf(datum));
  $("numbers").replaceChildren();
  for (const [term, value] of entries(datum)) {
    say($("numbers"), "dt", term);
    say($("numbers"), "dd", value);
  }
  const regions = `regions of ${masses.map(m => 100 * m).join(", ")} % mass`;
  $("key").replaceChildren();
  say($("key"), "span", "● draws of q(z | x)" + (datum.guide ? ", its regions" : ""), "guide");
  if (datum.exact) say($("key"), "span", `■ exact p(z | x): ${regions}`, "exact");
}

function drawTexts() {
  const datum = picked(), suffix = size === 2 ? "" : " along the principal axes";
  const draw = at.draw < 0 ? "" : `, draw ${at.draw + 1} of ${contents.num_samples}`;
  $("where").textContent = `${size === 2 ? "z" : "u"} = (${list(at.u)})${suffix}${draw}`;
  $("datum").hidden = $("posterior").hidden = !datum;
  $("close").disabled = !datum;
  $("tiles").setAttribute("aria-pressed", at.tiles);
  document.querySelectorAll("#axes input").forEach(slider => {
    slider.value = at.u[slider.name];
    slider.nextElementSibling.textContent = number(at.u[slider.name]);
  });
  if (datum) describe(datum);
}

const shown = {of: "", values: null};  // what is decoded where we are
function decodedHere() {
  const of = at.u.join();
  if (shown.of !== of) Object.assign(shown, {of, values: decode(latent(at.u))});
  return shown.values;
}

let queued = false, writing;
function refresh() {  // once a frame
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    drawPlane();
    drawTexts();
    drawDecoded(decodedHere(), picked());
    clearTimeout(writing);
    writing = setTimeout(writeAddress, 300);
  });
}

// ------------------------------------- the address, as in #datum=7&at=0.5,-1&images

function writeAddress() {
  const parts = [`at=${Array.from(at.u, v => +v.toFixed(4)).join()}`];
  if (picked()) parts.unshift(`datum=${at.datum}`);
  if (at.tiles) parts.push("images");
  history.replaceState(null, "", "#" + parts.join("&"));
}

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const datum = Number(wanted.get("datum") ?? NaN), u = wanted.get("at")?.split(",") ?? [];
  pick(datum in contents.data ? datum : null);
  u.slice(0, size).forEach((v, i) => { if (v && isFinite(v)) at.u[i] = v; });
  at.tiles = wanted.has("images");
}

// -------------------------------------------------------------------------- hands

const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
const pointers = new Map();

function spread() {  // of two fingers
  const [a, b] = [...pointers.values()];
  return Math.max(Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), 1);
}

function press(event) {
  plane.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, event);
  if (pointers.size === 1) move(pointAt(event));
}

function drag(event) {
  if (!pointers.has(event.pointerId)) return;
  const before = pointers.size === 2 ? spread() : 0;
  pointers.set(event.pointerId, event);
  if (pointers.size === 2) zoom(before / spread());
  else move(pointAt(event));
}

function key(event) {
  const arrow = ARROWS[event.key], {view} = at, step = view.half / (event.shiftKey ? 8 : 40);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (arrow) {
    move(arrow.map((v, i) => at.u[i] + v * step));
    const follow = (c, v) => Math.min(Math.max(c, v - view.half), v + view.half);
    at.view = {...view, x: follow(view.x, at.u[0]), y: follow(view.y, at.u[1])};
  } else if ("+=".includes(event.key)) zoom(.8);
  else if (event.key === "-") zoom(1.25);
  else return;
  event.preventDefault();
}

function wheel(event) {
  event.preventDefault();
  zoom(1.0015 ** event.deltaY, pointAt(event));
}

function nextDraw() {
  at.draw = (at.draw + 1) % contents.num_samples;
  at.u.set(drawOf(picked(), at.draw));
  refresh();
}

const forget = event => pointers.delete(event.pointerId);
const onPlane = {pointerdown: press, pointermove: drag, pointerup: forget,
  pointercancel: forget, keydown: key, wheel};
for (const [type, does] of Object.entries(onPlane)) {
  plane.addEventListener(type, does, {passive: false});
}
const clicks = {
  in: () => zoom(.7), out: () => zoom(1 / .7), whole: seeAll, close: seePosterior,
  tiles: () => { at.tiles = !at.tiles; refresh(); },
  draw: nextDraw, mean: () => pick(at.datum), leave: () => pick(null),
};
for (const [id, does] of Object.entries(clicks)) $(id).addEventListener("click", () => does());
addEventListener("keydown", event => { if (event.key === "Escape") pick(null); });
addEventListener("hashchange", () => { readAddress(); refresh(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);

// ---------------------------------------------------------- what is made only once

function classButton(name, k) {
  const button = say($("classes"), "button", name);
  button.style.setProperty("--dot", colour(k));
  button.setAttribute("aria-pressed", false);
  button.addEventListener("click", () => {
    at.only = at.only === k ? null : k;
    const all = document.querySelectorAll("#classes button");
    all.forEach((b, i) => b.setAttribute("aria-pressed", at.only === i));
    refresh();
  });
}

function thumbnail(datum, k) {
  const label = document.createElement("label"), radio = document.createElement("input");
  Object.assign(radio, {type: "radio", name: "datum", ariaLabel: `Datum ${datum.index}`});
  radio.addEventListener("change", () => pick(k));
  label.append(radio, shaped(document.createElement("canvas")));
  drawThumbnail(label.lastChild, datum);
  $("strip").lastElementChild.append(label);
}

function axisSlider(i) {
  const label = say($("axes"), "label", axis(i + 1)), slider = document.createElement("input");
  const max = 4 * Math.max(contents.sd[i], .25);
  Object.assign(slider, {type: "range", name: i, min: -max, max, step: max / 100});
  slider.addEventListener("input", () => {
    at.draw = -1;
    at.u[i] = slider.value;
    refresh();
  });
  label.append(slider, document.createElement("output"));
}

$("about").textContent = contents.about;
const [first] = contents.layers, isTable = contents.table !== "";
$("foot").textContent = (isTable
  ? `Decoded beforehand, at ${first.side} × ${first.side} points of the plane, and interpolated: off by `
    + `${contents.error.toPrecision(1)} on average. (Reason: ${contents.table}.)`
  : "The decoder's weights have 16 bits here: what it decodes is off by at most "
    + `${contents.error.toExponential(0)} over the codes.`) + ` A dot is a datum's code, the mean of `
  + `q(z | x). Seed ${contents.seed}.` + (size === 2 ? "" : " The plane is that of the codes' first "
  + `two principal axes, sd ${list(contents.sd)} along all ${size}.`);
$("what").textContent = captionOfDecoded;
$("image").hidden = isVector;
$("decoded").setAttribute("aria-label", isVector ? "Decoded vector" : "Decoded image");
$("tiles").textContent = isVector ? "Curves" : "Images";
shaped($("decoded"));
shaped($("image"));
contents.classes.forEach(classButton);
contents.data.forEach(thumbnail);
for (let i = 2; i < Math.min(size, 8); i++) axisSlider(i);
Object.assign($("more"), {hidden: size === 2 || isTable, open: innerWidth > 760});
new ResizeObserver(refresh).observe(plane);
seeAll();
readAddress();
