// JSON as text: indentation and filters. Numbers are never parsed for display, which would round
// large ones.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[[\]{},:]/gs;
const ONE_LINE = 72; // characters of a message that stays on one line

// Tokens of a message with line breaks and indentation: [[text, class name], …].
export function pretty(text) {
  const tokens = text.match(TOKEN) || [text];
  const long = text.length > ONE_LINE;
  const parts = [];
  let depth = 0;
  const add = (piece, className = "") => piece && parts.push([piece, className]);
  const newline = () => add(long ? `\n${"  ".repeat(depth)}` : "");
  tokens.forEach((token, index) => {
    const next = tokens[index + 1];
    if (token === "{" || token === "[") {
      add(token);
      if (next === "}" || next === "]") return;
      depth++;
      newline();
    } else if (token === "}" || token === "]") {
      const before = tokens[index - 1];
      if (before !== "{" && before !== "[") {
        depth--;
        newline();
      }
      add(token);
    } else if (token === ",") {
      add(long ? "," : ", ");
      newline();
    } else if (token === ":") add(": ");
    else add(token, next === ":" ? "key" : token[0] === '"' ? "string" : "literal");
  });
  return parts;
}

const TERM = /^([\w.$-]+)(!=|>=|<=|=|>|<)(.*)$/s;
const COMPARE = {
  "=": (a, b) => String(a) === b,
  "!=": (a, b) => String(a) !== b,
  ">": (a, b) => Number(a) > Number(b),
  "<": (a, b) => Number(a) < Number(b),
  ">=": (a, b) => Number(a) >= Number(b),
  "<=": (a, b) => Number(a) <= Number(b),
};

// Return a function that tells whether a row's text satisfies all terms of a filter. A term is text
// in upper or lower case, or for JSON a comparison such as user.name=ada or took>=10.
export function matcher(filter, isJSON) {
  const tests = filter.trim().split(/\s+/).filter(Boolean).map((term) => {
    const [, path, operator, value] = (isJSON && TERM.exec(term)) || [];
    if (!path) {
      const wanted = term.toLowerCase();
      return (text) => text.toLowerCase().includes(wanted);
    }
    return (text) => COMPARE[operator](valueAt(text, path), value);
  });
  return (text) => tests.every((test) => test(text));
}

function valueAt(text, path) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  for (const name of path.split(".")) value = value === null || value === undefined ? undefined : value[name];
  return value !== null && typeof value === "object" ? JSON.stringify(value) : value;
}
