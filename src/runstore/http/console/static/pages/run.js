import { html } from "../vendor/htm-preact.js";
import { Empty } from "../parts/problem.js";

export const RunPage = () => html`<${Empty} title="Not yet" />`;
