
"use strict";
const at = (id) => document.getElementById(id);
const app = at("app"), file = at("file"), drop = at("drop"), status = at("status");
const most = Number(app.dataset.most);
let asked = 0, photo = "", heat = "";

app.hidden = false;
at("how").open = false;
at("origin").textContent = location.origin;

function say(text, isError) {
  status.textContent = text;
  status.classList.toggle("error", Boolean(isError));
}

async function judge(chosen) {
  const mine = ++asked;
  at("result").hidden = true;
  if (chosen.size > most) {
    say(`${chosen.name}: larger than the ${most} bytes that are taken`, true);
    return;
  }
  say(`${chosen.name}: judging`);
  let answer;
  try {
    const reply = await fetch("/v1/judge?overlay=1", {
      method: "POST", body: chosen, headers: { "Content-Type": "application/octet-stream" },
    });
    answer = await reply.json();
  } catch (error) {
    answer = { error: "the server does not answer" };
  }
  if (mine !== asked) return;
  if (answer.error) {
    say(`${chosen.name}: ${answer.error}`, true);
    return;
  }
  say(chosen.name);
  if (photo) URL.revokeObjectURL(photo);
  photo = URL.createObjectURL(chosen);
  heat = `data:image/png;base64,${answer.overlay}`;
  show(answer);
}

function show(answer) {
  const number = (value) => Number(value.toPrecision(4)).toString();
  at("decision").textContent = answer.decision === "good" ? "Good" : "Anomalous";
  at("decision").className = answer.decision;
  at("told").textContent = `Score ${number(answer.score)}, the limit is `
    + `${number(answer.threshold)}; p-value ${number(answer.p_value)}.`
    + (answer.subclass ? ` Taken for ${answer.subclass}.` : "");
  const boxes = at("boxes"), rows = at("regions").tBodies[0];
  boxes.setAttribute("viewBox", `0 0 ${answer.width} ${answer.height}`);
  boxes.setAttribute("preserveAspectRatio", "none");
  boxes.replaceChildren();
  rows.replaceChildren();
  answer.regions.forEach((region, index) => {
    const [x0, y0, x1, y1] = region.box;
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) {
      box.setAttribute(name, value);
    }
    boxes.append(box);
    const row = rows.insertRow();
    for (const text of [index + 1, `${x0}, ${y0}`, `${x1}, ${y1}`, region.area, number(region.peak)]) {
      row.insertCell().textContent = text;
    }
  });
  at("regions").hidden = answer.regions.length === 0;
  draw();
  at("result").hidden = false;
}

function draw() {
  const warm = at("heat").checked;
  at("photo").src = warm ? heat : photo;
  at("photo").alt = warm ? "The photo under its heatmap" : "The photo";
  at("boxes").toggleAttribute("hidden", !at("outlines").checked);
}

at("heat").addEventListener("change", draw);
at("outlines").addEventListener("change", draw);
file.addEventListener("change", () => {
  if (file.files.length) judge(file.files[0]);
  file.value = "";
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) judge(event.dataTransfer.files[0]);
  });
}
