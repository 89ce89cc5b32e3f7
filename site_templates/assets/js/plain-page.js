// A page of text.

import { startShell } from "./shell.js";

startShell();
