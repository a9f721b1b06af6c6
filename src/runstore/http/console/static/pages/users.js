import { html } from "../vendor/htm-preact.js";
import { Empty } from "../parts/problem.js";

export const Users = () => html`<${Empty} title="Not yet" />`;
