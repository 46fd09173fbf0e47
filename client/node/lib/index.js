export { Client, open } from "./client.js";
export { PgheraldError } from "./errors.js";
