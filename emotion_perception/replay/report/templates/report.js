"use strict";
// One moment and one person are chosen; everything that is shown follows from these two.
const data = JSON.parse(document.getElementById("data").textContent);
const moments = data.moments;
const at = (id) => document.getElementById(id);
const lanes = [...document.querySelectorAll(".lane")];
const timeline = at("timeline");
let moment = 0, person = null, playing = null;

function element(name, attributes, text) {
  const space = ["svg", "rect", "text"].includes(name) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(svg, one, words) {
  const [width, height] = one.size;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren();
  for (const who of one.people) {
    const [left, top, right, bottom] = who.box;
    const box = element("rect", { x: left, y: top, width: right - left, height: bottom - top, class: who.status });
    svg.append(box);
    if (!words) continue;
    box.classList.toggle("chosen", who.id === person);
    box.addEventListener("click", () => choose(moment, who.id));
    const size = Math.max(width / 45, 8);
    const text = element("text", { x: Math.max(left, 2), y: Math.max(top - size / 3, size), style: `font-size:${size}px` },
      `${who.id} ${who.label || who.status.toLowerCase()}`);
    svg.append(text);
  }
}

function showPerson(one) {
  const who = one.people.find((p) => p.id === person);
  at("name").textContent = person || "No person in view";
  at("scores").replaceChildren();
  at("affect").textContent = at("rationale").textContent = "";
  const crop = at("crop");
  crop.style.backgroundImage = "none";
  if (!who) {
    at("said").textContent = person ? "not in view at this moment" : "";
    return;
  }
  const lead = who.label ? `${who.label}, ${(who.scores[data.labels.indexOf(who.label)] / 10).toFixed(1)} %` : "";
  const age = who.age === null ? "" : `assessed ${who.age.toFixed(1)} s ago`;
  at("said").textContent = [who.status, lead, who.reason, age].filter(Boolean).join(" · ");
  if (who.vad) {
    const [v, a, d] = who.vad.map((x) => (x > 0 ? "+" : "") + x.toFixed(2));
    at("affect").textContent = `valence ${v}, arousal ${a}, dominance ${d}`;
  }
  at("rationale").textContent = who.rationale;
  cutOut(crop, one, who.box);
  const order = who.scores.map((score, label) => [score, label]).sort((x, y) => y[0] - x[0]);
  for (const [score, label] of order) {
    const line = element("li", { style: `--score:${score / 10}` }, data.labels[label]);
    line.append(element("b", {}, (score / 10).toFixed(1)));
    if (who.raw.length) line.title = `newest answer alone: ${(who.raw[label] / 10).toFixed(1)} %`;
    line.classList.toggle("active", who.active.includes(label));
    line.classList.toggle("leading", data.labels[label] === who.label);
    at("scores").append(line);
  }
}

function cutOut(crop, one, [left, top, right, bottom]) {
  const scale = Math.min(crop.clientWidth / Math.max(right - left, 1), crop.clientHeight / Math.max(bottom - top, 1));
  crop.style.backgroundImage = `url(data:image/jpeg;base64,${one.jpeg})`;
  crop.style.backgroundSize = `${one.size[0] * scale}px ${one.size[1] * scale}px`;
  const [x, y] = [(crop.clientWidth - (right - left) * scale) / 2, (crop.clientHeight - (bottom - top) * scale) / 2];
  crop.style.backgroundPosition = `${x - left * scale}px ${y - top * scale}px`;
  crop.style.clipPath = `inset(${Math.max(y, 0)}px ${Math.max(x, 0)}px round 4px)`;
}

function placeCursor() {
  const track = timeline.querySelector(".axis .track");
  at("cursor").style.left = `${track.offsetLeft + track.clientWidth * moments[moment].t / data.span}px`;
}

function choose(index, who) {
  if (!moments.length) return;
  moment = Math.min(Math.max(index, 0), moments.length - 1);
  const one = moments[moment];
  if (who !== undefined) person = who;
  if (person === null && one.people.length) person = one.people[0].id;
  at("picture").querySelector("img").src = `data:image/jpeg;base64,${one.jpeg}`;
  draw(at("picture").querySelector("svg"), one, true);
  at("moment").value = moment;
  at("when").textContent = `${one.t.toFixed(2)} s`;
  at("when").title = `stamp ${one.stamp} ns`;
  showPerson(one);
  placeCursor();
  for (const lane of lanes) lane.classList.toggle("chosen", lane.dataset.person === person);
  let current = null;
  for (const button of at("strip").children) {
    if (Number(button.dataset.moment) <= moment) current = button;
    button.removeAttribute("aria-current");
  }
  if (current) {
    current.setAttribute("aria-current", "true");
    at("strip").scrollLeft = current.offsetLeft - at("strip").clientWidth / 2;
  }
}

function nearest(seconds) {
  let low = 0, high = moments.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (moments[middle].t < seconds) low = middle + 1; else high = middle;
  }
  return low > 0 && seconds - moments[low - 1].t < moments[low].t - seconds ? low - 1 : low;
}

function nextPerson(step) {
  const names = moments[moment].people.map((p) => p.id);
  if (!names.length) return;
  const here = names.indexOf(person);
  choose(moment, here < 0 ? names[0] : names[(here + step + names.length) % names.length]);
}

function play() {
  if (playing) {
    clearInterval(playing);
    playing = null;
  } else {
    if (moment === moments.length - 1) choose(0);
    playing = setInterval(() => (moment < moments.length - 1 ? choose(moment + 1) : play()), 200);
  }
  at("play").textContent = playing ? "⏸ pause" : "▶ play";
}

function fillStrip() {
  const step = Math.max(Math.ceil(moments.length / 40), 1);
  for (let index = 0; index < moments.length; index += step) {
    const one = moments[index];
    const button = element("button", { type: "button", "data-moment": index, "aria-label": `${one.t.toFixed(1)} s`,
      title: `${one.t.toFixed(1)} s` });
    const svg = element("svg", { "aria-hidden": "true" });
    draw(svg, one, false);
    button.append(element("img", { alt: "", src: `data:image/jpeg;base64,${one.jpeg}` }), svg);
    button.addEventListener("click", () => choose(index));
    at("strip").append(button);
  }
}

const keys = {
  ArrowLeft: (e) => choose(moment - (e.shiftKey ? 10 : 1)), ArrowRight: (e) => choose(moment + (e.shiftKey ? 10 : 1)),
  ArrowUp: () => nextPerson(-1), ArrowDown: () => nextPerson(1),
  Home: () => choose(0), End: () => choose(moments.length - 1), " ": play,
};
document.addEventListener("keydown", (event) => {
  const typed = event.target.closest && event.target.closest("input, button, .scroll, summary");
  const own = typed && (event.key === " " || typed.matches("input, .scroll"));
  if (!keys[event.key] || own || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key](event);
});
for (const [id, act] of Object.entries({ first: () => choose(0), back: () => choose(moment - 1), play,
  on: () => choose(moment + 1), last: () => choose(moments.length - 1) })) at(id).addEventListener("click", act);
at("zoom").addEventListener("input", (event) => {
  timeline.style.setProperty("--zoom", 2 ** Number(event.target.value));
  placeCursor();
  timeline.scrollLeft = parseFloat(at("cursor").style.left) - timeline.clientWidth / 2;
});
at("moment").max = Math.max(moments.length - 1, 0);
at("moment").addEventListener("input", (event) => choose(Number(event.target.value)));
for (const lane of lanes) {
  lane.querySelector(".who").addEventListener("click", () => {
    const seen = moments.findIndex((one) => one.people.some((p) => p.id === lane.dataset.person));
    const here = moments[moment].people.some((p) => p.id === lane.dataset.person);
    choose(here || seen < 0 ? moment : seen, lane.dataset.person);
  });
  for (const track of lane.querySelectorAll(".track")) {
    track.addEventListener("click", (event) => {
      const place = track.getBoundingClientRect();
      choose(nearest(data.span * (event.clientX - place.left) / place.width), lane.dataset.person);
    });
  }
}
addEventListener("resize", () => choose(moment));
fillStrip();
const first = moments.findIndex((one) => one.people.some((p) => p.status === "ASSESSED"));
choose(Math.max(first, 0));
if (!moments.length) at("viewer").hidden = true;
