// Draws the newest picture and its people; asks for the next one when this one is drawn.

const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg", TRACE_S = 30;
const traces = new Map(), explanations = new Map();
let state = null, chosen = null, paused = false, socket;

function element(name, attributes = {}, text = "", namespace = null) {
  const made = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}
const svg = (name, attributes, text) => element(name, attributes, text, SVG);
const text = (id, value) => { if ($(id).textContent !== value) $(id).textContent = value; };
const send = request => { if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(request)); };

function describe(person) {
  if (person.status === "ASSESSED") return `${person.label} ${person.confidence.toFixed(2)}`;
  return `${person.status.toLowerCase()}${person.reason ? `: ${person.reason}` : ""}`;
}

function remember() {
  const now = state.stamp_ns / 1e9;
  for (const person of state.people) {
    const trace = traces.get(person.person_id) ?? [];
    if (person.status === "ASSESSED" && person.valence !== null && trace.at(-1)?.t !== now)
      trace.push({ t: now, valence: person.valence, arousal: person.arousal });
    traces.set(person.person_id, trace.filter(point => point.t > now - TRACE_S && point.t <= now));
  }
  const present = new Set(state.people.map(person => person.person_id));
  for (const id of traces.keys())
    if (!present.has(id) && !traces.get(id).some(point => point.t > now - TRACE_S)) traces.delete(id);
}

async function drawImage(data) {
  const canvas = $("image");
  if (!data.byteLength) {
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    return;
  }
  const bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height)
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

function drawBoxes() {
  const boxes = $("boxes");
  if (!state.image_width) return boxes.replaceChildren();
  boxes.setAttribute("viewBox", `0 0 ${state.image_width} ${state.image_height}`);
  const size = 14 * state.image_width / Math.max(boxes.clientWidth, 1);
  boxes.replaceChildren(...state.people.flatMap(person => {
    const [left, top, right, bottom] = person.box;
    const rect = svg("rect", { x: left, y: top, width: right - left, height: bottom - top,
      class: person.status + (person.person_id === chosen ? " chosen" : "") });
    rect.addEventListener("click", () => choose(person.person_id));
    const label = svg("text", { x: Math.max(left, 0) + size / 4, y: Math.max(top, size * 1.4) - size / 3 },
      `${person.person_id} ${describe(person)}`);
    label.style.fontSize = `${size}px`;
    return [rect, label];
  }));
}

function drawPeople() {
  const list = $("people"), buttons = new Map([...list.querySelectorAll("button")].map(b => [b.dataset.id, b]));
  for (const person of state.people) {
    let button = buttons.get(person.person_id);
    if (!button) {
      button = element("button", { "data-id": person.person_id });
      button.addEventListener("click", () => choose(person.person_id));
      list.append(element("li")); list.lastChild.append(button);
    }
    buttons.delete(person.person_id);
    const line = `${person.person_id}  ${describe(person)}`;
    if (button.textContent !== line) button.textContent = line;
    button.setAttribute("aria-pressed", person.person_id === chosen);
  }
  for (const gone of buttons.values()) gone.parentElement.remove();
}

function drawScores(person) {
  const list = $("scores");
  if (!person.scores.length) return list.replaceChildren();
  const order = state.labels.map((label, i) => i).sort((a, b) => person.scores[b] - person.scores[a]);
  list.replaceChildren(...order.map(i => {
    const active = person.active.includes(state.labels[i]), score = person.scores[i], limit = state.thresholds[i];
    const row = element("li", { class: active ? "active" : "" });
    const bar = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    bar.append(svg("rect", { class: "bar", width: score, height: 1 }));
    if (limit !== undefined && limit !== null) bar.append(svg("line", { x1: limit, x2: limit, y1: 0, y2: 1 }));
    row.append(bar, element("span", {}, state.labels[i]), element("span", {}, score.toFixed(2)));
    row.title = limit === undefined || limit === null ? "" : `score ${score.toFixed(3)}, threshold ${limit.toFixed(3)}`;
    return row;
  }));
}

function drawTrace(person) {
  const points = traces.get(person.person_id) ?? [], now = state.stamp_ns / 1e9;
  $("trace").replaceChildren(...["valence", "arousal"].map(name => {
    const path = points.map(p => `${300 * (1 - (now - p.t) / TRACE_S)},${40 - 40 * p[name]}`);
    return svg("path", { class: name, d: path.length ? `M${path.join("L")}` : "" });
  }), svg("path", { class: "zero", d: "M0,40H300" }));
}

function drawPerson() {
  const person = state.people.find(p => p.person_id === chosen);
  $("person").hidden = !person;
  if (!person) return;
  const age = person.age_s === null ? "not assessed yet" : `assessed ${person.age_s.toFixed(1)} s ago`;
  text("name", `${person.person_id}: ${describe(person)}`);
  text("status", `${person.status}, ${age}, detected with confidence ${(person.detection_confidence ?? 0).toFixed(2)}`);
  $("explain").hidden = !state.can_explain;
  text("rationale", explanations.get(chosen) ?? person.rationale ?? "");
  for (const part of document.querySelectorAll(".affect")) part.hidden = person.valence === null;
  drawScores(person); drawTrace(person);
}

function draw() {
  document.querySelector("header").classList.toggle("looking", state.looking);
  text("looking", state.looking ? `looking at ${state.source}` : state.enabled ? "no picture" : "not looking");
  text("enable", state.enabled ? "Stop looking" : "Look again");
  $("problem").hidden = !state.problem; text("problem", state.problem);
  text("facts", `${state.model}${state.calibration ? `, calibration ${state.calibration}` : ""} on ${state.device}; ` +
    `${state.frames_per_second} pictures/s, ${state.rounds_per_second} rounds/s${state.round_s === null ? "" : `, last round ${state.round_s} s`}; ${state.source_status}`);
  if (!state.people.some(p => p.person_id === chosen)) chosen = state.people[0]?.person_id ?? chosen;
  drawBoxes(); drawPeople(); drawPerson();
}

function choose(id) { chosen = id; if (state) draw(); }

async function receive(event) {
  if (typeof event.data === "string") {
    const answer = JSON.parse(event.data);
    if (answer.did === "explain" && answer.text) explanations.set(answer.person, answer.text);
    text("note", answer.error ?? (answer.did === "explain" ? "" : answer.text ?? ""));
    return;
  }
  if (!paused) {
    const length = new DataView(event.data).getUint32(0);
    state = JSON.parse(new TextDecoder().decode(new Uint8Array(event.data, 4, length)));
    await drawImage(event.data.slice(4 + length));
    remember(); draw();
  }
  requestAnimationFrame(() => send({ do: "next" }));
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/stream`);
  socket.binaryType = "arraybuffer";
  socket.addEventListener("message", receive);
  socket.addEventListener("close", () => {
    $("problem").hidden = false;
    text("problem", "the program ended, or the connection broke; start it again and open the new address");
    document.querySelector("header").classList.remove("looking");
    setTimeout(connect, 2000);
  });
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  text("pause", paused ? "Go on" : "Pause the page");
});
$("enable").addEventListener("click", () => send({ do: "enable", on: !state?.enabled }));
$("save").addEventListener("click", () => send({ do: "save" }));
$("explain").addEventListener("click", () => { text("note", "asking the model for a reason"); send({ do: "explain", person: chosen }); });
connect();
