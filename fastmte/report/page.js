"use strict";
// Tables sort by a click on a column's head: numbers first by the largest, texts by the alphabet.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const isNumber = head.classList.contains("number");
      const was = head.getAttribute("aria-sort");
      const order = was ? (was === "descending" ? "ascending" : "descending")
        : (isNumber ? "descending" : "ascending");
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const value = (row) => row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        if (!isNumber) return sign * value(a).localeCompare(value(b));
        const [x, y] = [parseFloat(value(a)), parseFloat(value(b))];
        // Whatever has no number comes last in both orders.
        return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y) || 0;
      });
      table.tBodies[0].append(...rows);
    });
  });
}

// The songs: their names and scores lie in the page as data, so that 100,000 of them still load.
const data = document.getElementById("songs-data");
if (data) {
  const songs = JSON.parse(data.textContent);
  const bytes = Uint8Array.from(atob(songs.scores), (c) => c.charCodeAt(0));
  const scores = new DataView(bytes.buffer);
  const nTags = songs.tags.length;
  const score = (song, tag) => scores.getUint16(2 * (song * nTags + tag), true) / 65535;
  const body = document.getElementById("songs-rows");
  const find = document.getElementById("songs-find");
  const pick = document.getElementById("songs-tag");
  const count = document.getElementById("songs-count");
  const more = document.getElementById("songs-more");
  const PAGE = 100;
  let found = [], shown = 0;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const chip = (song, tag, isTag) => {
    const made = element("span", isTag ? "chip is-tag" : "chip", songs.tags[tag] + " ");
    made.append(element("small", "", score(song, tag).toFixed(2)));
    return made;
  };
  const row = (song) => {
    const made = element("tr");
    made.append(element("td", "name", songs.names[song]));
    const length = songs.seconds[song];
    made.append(element("td", "number", length === null ? "–" : length.toFixed(1)));
    const tags = element("td");
    for (const tag of songs.given[song]) tags.append(chip(song, tag, true));
    const others = songs.best[song].filter((tag) => !songs.given[song].includes(tag));
    const room = Math.max(0, 3 - songs.given[song].length);
    for (const tag of others.slice(0, room)) tags.append(chip(song, tag, false));
    if (pick.value !== "" && !tags.textContent.includes(songs.tags[pick.value] + " ")) {
      tags.append(chip(song, Number(pick.value), false));
    }
    made.append(tags, element("td", "soft", songs.notes[song]));
    return made;
  };
  const show = () => {
    body.append(...found.slice(shown, shown + PAGE).map(row));
    shown = Math.min(shown + PAGE, found.length);
    count.textContent = `${found.length} of ${songs.names.length} songs`;
    more.hidden = shown === found.length;
  };
  const search = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (song) => (songs.names[song] + " "
      + songs.given[song].map((tag) => songs.tags[tag]).join(" ")).toLowerCase();
    found = songs.names.map((_, song) => song)
      .filter((song) => words.every((word) => text(song).includes(word)));
    if (pick.value !== "") {
      const tag = Number(pick.value);
      found.sort((a, b) => score(b, tag) - score(a, tag) || a - b);
    }
    body.replaceChildren();
    shown = 0;
    show();
  };
  find.addEventListener("input", search);
  pick.addEventListener("change", search);
  more.addEventListener("click", show);
  search();
}
