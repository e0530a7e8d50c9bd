"use strict";
(() => {
  const data = JSON.parse(document.getElementById("embeddings-data").textContent);
  const element = (id) => document.getElementById(id);
  const canvas = element("points"), card = element("card"), detail = element("detail"), plot = element("plot");
  const count = data.files.length, radius = count > 800 ? 3.5 : count > 250 ? 4.5 : 6;
  const state = { projection: Object.keys(data.places)[0], column: 0, only: null, chosen: null, hovered: null };
  const column = () => data.columns[state.column];
  const isShown = (index) => state.only === null || column().codes[index] === state.only;
  const picture = (index) => `data:image/jpeg;base64,${data.thumbnails[index]}`;
  const word = data.cameraWord[0].toUpperCase() + data.cameraWord.slice(1);

  // A long name may go on in the next line after an underscore, a slash or a dot.
  const soft = (text) => text.replace(/([_/.])/g, "$1\u200b");

  function make(tag, content, into, name) {
    const made = document.createElement(tag);
    if (content !== null) made.textContent = tag === "option" ? content : soft(content);
    if (name) made.className = name;
    if (into) into.append(made);
    return made;
  }

  // Both axes on one scale, in the largest square that fits.
  function at(index) {
    const wide = canvas.clientWidth, high = canvas.clientHeight, reach = Math.min(wide, high) / 2 - 22;
    const [x, y] = data.places[state.projection][index], stretch = state.projection === "PCA" ? 1 : Math.min(wide / high, 1.6);
    return [wide / 2 + x * reach * Math.max(1, stretch), high / 2 - y * reach];
  }

  function dot(pen, index, size, colour, alpha, edge, width) {
    const [x, y] = at(index);
    pen.globalAlpha = alpha; pen.beginPath(); pen.arc(x, y, size, 0, 2 * Math.PI);
    pen.fillStyle = colour; pen.fill();
    pen.lineWidth = width; pen.strokeStyle = edge; pen.stroke(); pen.globalAlpha = 1;
  }

  function draw() {
    const sharp = window.devicePixelRatio || 1, wide = canvas.clientWidth, high = canvas.clientHeight;
    canvas.width = Math.round(wide * sharp); canvas.height = Math.round(high * sharp);
    const pen = canvas.getContext("2d");
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, wide, high);
    const { codes, categories } = column();
    for (let index = 0; index < count; index += 1) if (!isShown(index)) dot(pen, index, radius * .8, "#c4ccd3", .55, "#fff", .5);
    for (let index = 0; index < count; index += 1) if (isShown(index)) dot(pen, index, radius, categories[codes[index]].colour, .88, "#fff", 1);
    const centre = state.chosen;
    if (centre !== null) {
      pen.strokeStyle = "#4a5863"; pen.lineWidth = 1;
      for (const other of data.neighbours[centre]) {
        pen.beginPath(); pen.moveTo(...at(centre)); pen.lineTo(...at(other)); pen.stroke();
        dot(pen, other, radius + 1, categories[codes[other]].colour, 1, "#1b2733", 1.5);
      }
    }
    for (const index of [state.hovered, centre]) if (index !== null) dot(pen, index, radius + 3.5, categories[codes[index]].colour, 1, "#1b2733", 2.5);
  }

  const verdict = (index) => data.labels[index] === data.predictions[index] ? "" : " (wrong)";
  const score = (index) => `${data.predictions[index]} ${Math.round(100 * data.scores[index])} %`;

  function showCard() {
    const index = state.hovered ?? state.chosen;
    card.hidden = index === null;
    if (index === null) return;
    card.replaceChildren();
    const image = make("img", null, card); image.src = picture(index); image.alt = "";
    const words = make("div", null, card);
    make("p", data.labels[index], words).style.fontWeight = "600";
    make("p", `says ${score(index)}`, words);
    if (data.cameras) make("p", data.cameras[index], words);
    make("p", `${data.splits[index]}/${data.files[index]}`, card, "name");
    const [x, y] = at(index), wide = plot.clientWidth, room = card.offsetWidth;
    card.style.left = `${Math.max(4, Math.min(wide - room - 4, x < wide / 2 ? x + 16 : x - room - 16))}px`;
    const tall = card.offsetHeight, above = y - tall - 16;
    const covers = wide < room * 2 + 40;
    card.style.top = `${covers ? (above >= 4 ? above : y + 16) : Math.max(4, Math.min(plot.clientHeight - tall - 4, y - tall / 2))}px`;
  }

  function fact(list, name, value) {
    const row = make("div", null, list);
    make("dt", name, row); make("dd", value, row);
  }

  function showDetail() {
    const index = state.chosen;
    detail.replaceChildren();
    if (index === null) { make("p", "No video chosen.", detail, "lead"); return; }
    const who = make("div", null, detail, "who");
    const image = make("img", null, who); image.src = picture(index); image.alt = `Middle frame of ${data.files[index]}`;
    const list = make("dl", null, who);
    fact(list, "Label", data.labels[index]);
    fact(list, "Prediction", score(index) + verdict(index));
    if (data.cameras) fact(list, word, data.cameras[index]);
    fact(list, "Video", `${data.splits[index]}/${data.files[index]}`);
    make("h2", "Nearest in the embedding", detail);
    const near = make("ul", null, detail, "near");
    for (const other of data.neighbours[index]) {
      const button = make("button", null, make("li", null, near));
      button.type = "button";
      const small = make("img", null, button); small.src = picture(other); small.alt = "";
      make("div", data.labels[other], button, data.labels[other] === data.labels[index] ? "" : "other");
      if (data.cameras) make("div", data.cameras[other] === data.cameras[index] ? `same ${data.cameraWord}` : data.cameras[other], button);
      button.addEventListener("click", () => choose(other));
    }
  }

  function choose(index) {
    state.chosen = index; state.hovered = null;
    draw(); showCard(); showDetail();
    element("said").textContent = index === null ? "" : `${data.files[index]}: ${data.labels[index]}, model says ${score(index)}${data.cameras ? `, ${data.cameraWord} ${data.cameras[index]}` : ""}`;
  }

  function under(event) {
    const area = canvas.getBoundingClientRect(), x = event.clientX - area.left, y = event.clientY - area.top;
    let best = null, least = (event.pointerType === "mouse" ? 12 : 22) ** 2;
    for (let index = 0; index < count; index += 1) {
      if (!isShown(index)) continue;
      const [left, top] = at(index), distance = (left - x) ** 2 + (top - y) ** 2;
      if (distance < least) { least = distance; best = index; }
    }
    return best;
  }

  // The next point that way: near, and not much off to the side.
  function beyond(index, dx, dy) {
    const [x, y] = at(index);
    let best = null, least = Infinity;
    for (let other = 0; other < count; other += 1) {
      if (other === index || !isShown(other)) continue;
      const [left, top] = at(other), ahead = (left - x) * dx + (top - y) * dy, aside = Math.abs((left - x) * dy) + Math.abs((top - y) * dx);
      if (ahead > .5 && aside <= ahead * 1.5 && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = other; }
    }
    return best;
  }

  function middle() {
    let best = null, least = Infinity;
    for (let index = 0; index < count; index += 1) {
      const [x, y] = at(index), distance = (x - canvas.clientWidth / 2) ** 2 + (y - canvas.clientHeight / 2) ** 2;
      if (isShown(index) && distance < least) { least = distance; best = index; }
    }
    return best;
  }

  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    const index = under(event);
    if (index !== state.hovered) { state.hovered = index; draw(); showCard(); }
  });
  canvas.addEventListener("pointerleave", () => { state.hovered = null; draw(); showCard(); });
  canvas.addEventListener("click", (event) => choose(under(event)));
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Escape") choose(null);
    else if (way || event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      const next = state.chosen === null ? middle() : way ? beyond(state.chosen, ...way) : state.chosen;
      if (next !== null) choose(next);
    }
  });

  function legend() {
    element("legend-title").textContent = column().title;
    element("legend").replaceChildren();
    column().categories.forEach((category, code) => {
      const button = make("button", null, make("li", null, element("legend")));
      button.type = "button"; button.setAttribute("aria-pressed", String(state.only === code));
      make("b", null, button).style.background = category.colour;
      make("span", category.name, button); make("i", String(category.count), button);
      button.addEventListener("click", () => {
        state.only = state.only === code ? null : code;
        for (const [place, each] of element("legend").querySelectorAll("button").entries()) each.setAttribute("aria-pressed", String(state.only === place));
        if (state.chosen !== null && !isShown(state.chosen)) choose(null); else draw();
      });
    });
  }

  function project(name) {
    state.projection = name;
    for (const button of element("projections").children) button.setAttribute("aria-pressed", String(button.textContent === name));
    const axes = data.axes[name];
    element("across").hidden = element("up").hidden = !axes;
    if (axes) { element("across").textContent = `${axes[0]} →`; element("up").textContent = `↑ ${axes[1]}`; }
    draw(); showCard();
  }

  for (const name of Object.keys(data.places)) {
    const button = make("button", name, element("projections"));
    button.type = "button";
    button.addEventListener("click", () => project(name));
  }
  data.columns.forEach((each, place) => { make("option", each.title, element("by")).value = String(place); });
  element("by").addEventListener("change", (event) => { state.column = Number(event.target.value); state.only = null; legend(); draw(); });
  legend();
  project(state.projection);
  new ResizeObserver(() => { draw(); showCard(); }).observe(canvas);
})();
