"use strict";

const token = new URLSearchParams(location.search).get("token") || "";
const STORED = "srpo-ray vote: name";
const byId = (id) => document.getElementById(id);
const screens = ["start", "voting", "done"].map(byId);
let rater = "";
let ticket = "";
let busy = false;

function show(id) {
  for (const screen of screens) screen.hidden = screen.id !== id;
}

function address(path, query = {}) {
  return `${path}?${new URLSearchParams({ ...query, token })}`;
}

async function request(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ rater, ...body }),
  };
  let answer;
  try {
    answer = await fetch(address(path, body ? {} : { rater }), options || {});
  } catch {
    throw new Error("The server does not answer. It may have been stopped. Your earlier votes are stored.");
  }
  if (answer.status === 403) throw new Error("The server was started again. Open the address that it printed.");
  const content = await answer.json();
  if (answer.status === 409) {
    const state = await request("/next");
    await present(state);
    throw new Error(content.error);
  }
  if (!answer.ok) throw new Error(content.error);
  return content;
}

async function act(path, body) {
  if (busy) return false;
  busy = true;
  byId("pair").classList.add("waiting");
  byId("message").textContent = "";
  try {
    await present(await request(path, body));
    return true;
  } catch (error) {
    byId("message").textContent = error.message;
    return false;
  } finally {
    busy = false;
    byId("pair").classList.remove("waiting");
    for (const side of ["left", "right"]) byId(side).classList.remove("picked");
  }
}

function load(image, name) {
  image.src = address(`/image/${name}`);
  return image.decode().then(
    () => image.classList.toggle("small", image.naturalWidth < 256),
    () => {
      throw new Error("An image could not be loaded. Reload the page to try again.");
    },
  );
}

async function present(state) {
  // A side that keeps the focus would stand out in the next pair.
  if (document.activeElement.classList.contains("side")) document.activeElement.blur();
  // Both images appear at once, with their prompt: an earlier one would draw the eye.
  if (!state.done) await Promise.all([load(byId("left-image"), state.left), load(byId("right-image"), state.right)]);
  ticket = state.done ? "" : state.ticket;
  showProgress(state);
  if (state.done) {
    byId("thanks").textContent = `Thank you, ${state.rater}. Your ${state.voted} votes are stored. You can close this page.`;
    byId("undo-last").disabled = state.voted === 0;
    show("done");
    return;
  }
  byId("prompt").textContent = state.prompt;
  byId("left-image").alt = `Left image for the prompt: ${state.prompt}`;
  byId("right-image").alt = `Right image for the prompt: ${state.prompt}`;
  byId("status").textContent = `Pair ${state.voted + 1} of ${state.total}: ${state.prompt}`;
  show("voting");
}

function showProgress(state) {
  const bar = document.querySelector(".progress");
  bar.setAttribute("aria-valuenow", state.voted);
  bar.setAttribute("aria-valuemax", state.total);
  byId("bar").style.width = `${(100 * state.voted) / Math.max(1, state.total)}%`;
  const all = state.needed ? ` · ${Math.min(state.given, state.needed)} of ${state.needed} votes that are needed` : "";
  byId("count").textContent = `${state.voted} of ${state.total} pairs${all}`;
  byId("who").textContent = state.rater;
  byId("undo").disabled = state.voted === 0;
}

function vote(choice) {
  if (busy || !ticket) return;
  if (choice === "left" || choice === "right") byId(choice).classList.add("picked");
  act("/vote", { ticket, choice });
}

function zoom(on = !document.body.classList.contains("zoomed")) {
  document.body.classList.toggle("zoomed", on);
  byId("zoom").setAttribute("aria-pressed", String(on));
}

async function begin(name) {
  rater = name.trim();
  if (!(await act("/next"))) return;
  localStorage.setItem(STORED, rater);
}

function rename() {
  localStorage.removeItem(STORED);
  byId("name").value = "";
  byId("message").textContent = "";
  show("start");
  byId("name").focus();
}

for (const choice of ["left", "right", "tie", "both_bad"]) byId(choice).addEventListener("click", () => vote(choice));
for (const id of ["undo", "undo-last"]) byId(id).addEventListener("click", () => act("/undo", {}));
for (const id of ["rename", "next-person"]) byId(id).addEventListener("click", rename);
byId("zoom").addEventListener("click", () => zoom());
byId("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(byId("name").value);
});

// Both images show the same place.
for (const id of ["left", "right"]) {
  byId(id).addEventListener("pointermove", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const pair = byId("pair");
    pair.style.setProperty("--x", `${(100 * (event.clientX - box.left)) / box.width}%`);
    pair.style.setProperty("--y", `${(100 * (event.clientY - box.top)) / box.height}%`);
  });
}

const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", " ": "tie", x: "both_bad" };
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const voting = !byId("voting").hidden;
  // Space presses a button that was reached with the tab key.
  const onButton = key === " " && event.target.matches("button:focus-visible");
  if (key === "u" && byId("start").hidden) act("/undo", {});
  else if (voting && key === "z") zoom();
  else if (voting && key === "Escape") zoom(false);
  else if (voting && KEYS[key] && !onButton) vote(KEYS[key]);
  else return;
  event.preventDefault();
});

const known = localStorage.getItem(STORED);
if (known) {
  begin(known).then(() => {
    if (screens.every((screen) => screen.hidden)) show("start");
  });
} else {
  show("start");
  byId("name").focus();
}
