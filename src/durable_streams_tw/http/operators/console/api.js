// Requests to the server, with the token of this tab.

// A proxy may serve everything below another path.
export const base = location.pathname.replace(/\/-\/console\/?$/, "");

const TOKEN = "durable-streams-token";
const TITLES = {
  401: "A valid token is needed: enter it under Token.",
  403: "The token does not allow this.",
  404: "There is no such stream.",
  410: "The stream or the offset is gone.",
};

// Path of the streams.
const { root } = document.body.dataset;

let token = sessionStorage.getItem(TOKEN) || "";

export const getToken = () => token;

// The token is kept for this tab, until it is closed.
export function setToken(value) {
  token = value;
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Send a request; throw a RequestError with a sentence for the user if it is not successful.
export async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let response;
  try {
    response = await fetch(base + path, { cache: "no-store", redirect: "error", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, "The server does not respond.");
  }
  if (response.ok) return response;
  let detail = response.statusText;
  try {
    const problem = await response.json();
    detail = problem.detail || problem.title || (problem.error && problem.error.message) || detail;
  } catch {
    // Not a problem of this server, or a response to HEAD.
  }
  const title = TITLES[response.status];
  if (response.status === 401 && !token) throw new RequestError(401, title);
  const sentence = detail.charAt(0).toUpperCase() + detail.slice(1);
  throw new RequestError(response.status, title ? `${title} ${sentence}` : `${response.status}: ${detail}`);
}

export async function getJSON(path, query, options) {
  return (await request(`${path}?${new URLSearchParams(query)}`, options)).json();
}

const encoded = (name) => name.split("/").map(encodeURIComponent).join("/");

// Path of a stream for `request`.
export const pathOf = (name) => root + encoded(name);

// URL of a stream for other programs.
export const urlOf = (name) => location.origin + base + pathOf(name);
