// What nearly every part of the console uses, in one place.

export { html } from "./text.js"; // and not htm's
export * from "./vendor/htm-preact.js";
export * from "./api.js";
export * from "./format.js";
export * from "./hooks.js";
export * from "./notes.js";
export * from "./parts/basics.js";
export * from "./route.js";
export * from "./text.js";
