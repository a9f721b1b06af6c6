import { html } from "../vendor/htm-preact.js";
import { Empty } from "../parts/problem.js";

export const Inbox = () => html`<${Empty} title="Not yet" />`;
