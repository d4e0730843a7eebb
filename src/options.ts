/**
 * Checks what callers from JavaScript pass: a mistyped option name or a value of the wrong type gives a TypeError of one line, which names
 * the function and the nearest right name. Every room may import this file; it imports nothing.
 *
 * The rules of an options object are written next to its interface, in the notation of TypeScript ("number", "boolean?"), and the
 * compiler compares the two: an option without a rule does not compile. Ranges stay with the function that knows them.
 */

type Optional<R> = R extends string ? `${R}?` : R

type KindOf<T> = [T] extends [boolean]
  ? "boolean"
  : [T] extends [number]
    ? "number"
    : [T] extends [string]
      ? "string"
      : [T] extends [(...args: never[]) => unknown]
        ? "function"
        : [T] extends [readonly unknown[]]
          ? "array"
          : "object" | "any"

/** A type name, or the list of allowed values for a union of literals. */
type RuleOf<T> = [T] extends [string] ? (string extends T ? "string" : readonly T[]) : KindOf<T>

/** The rules of an options object or of an interface: one for each member, with a "?" after optional ones. */
export type Rules<O> = {
  readonly [K in keyof O]-?: object extends Pick<O, K> ? Optional<RuleOf<Exclude<O[K], undefined>>> | "any?" : RuleOf<O[K]>
}

type AnyRules = Readonly<Record<string, string | readonly string[]>>

/**
 * Checks the options that `who`, a function's name, was given. An option that is undefined counts as left out.
 * @throws TypeError for an unknown name, a missing option, or a value of the wrong type
 */
export function checkOptions<O extends object>(who: string, options: O, rules: Rules<O>): void {
  const given: unknown = options
  const known: AnyRules = rules
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new TypeError(`${who}: the options must be an object with ${listed(Object.keys(known), "or")}, not ${described(given)}`)
  }
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(known, name)) continue
    throw new TypeError(`${who}: unknown option "${name}"; ${suggestion(name, Object.keys(known), "options")}`)
  }
  for (const [name, rule] of Object.entries(known)) {
    const value: unknown = Reflect.get(given, name)
    // Every option with a choice has a default.
    if (value !== undefined || typeof rule === "string") checkValue(who, name, value, rule)
  }
}

/**
 * Checks that `value` has the members of an interface, its own and inherited ones; it may have others. A member of any type is not read,
 * because it may be an expensive getter.
 * @param what the name of the value in the message
 * @param where the interface in the message
 * @throws TypeError
 */
export function checkMembers<I extends object>(who: string, what: string, value: I, rules: Rules<I>, where: string): void {
  const given: unknown = value
  if ((typeof given !== "object" && typeof given !== "function") || given === null) {
    throw new TypeError(`${who}: ${what} must implement ${where}, not ${described(given)}`)
  }
  if (described(given) === "a promise") throw new TypeError(`${who}: ${what} is a promise; await it first`)
  for (const [name, rule] of Object.entries<string | readonly string[]>(rules)) {
    if (rule === "any?") continue
    const member: unknown = Reflect.get(given, name)
    const problem = violation(member, rule)
    if (problem === undefined || (member === undefined && typeof rule !== "string")) continue
    const found = member === undefined ? `${what} has no ${name}` : `${name} of ${what} is ${described(member)}`
    throw new TypeError(`${who}: ${found}; it must be ${problem}: see the interface ${where}`)
  }
}

/** The first of `names` that is a method declared `async`, so that an error can name it before anyone calls it. */
export function findAsync(value: object, names: readonly string[]): string | undefined {
  return names.find((name) => {
    const method: unknown = Reflect.get(value, name)
    return typeof method === "function" && method.constructor.name === "AsyncFunction"
  })
}

/** Whether `value` is a promise, where none is allowed. Nobody awaits it, so its rejection is handled here and cannot end the process. */
export function isStrayPromise(value: unknown): boolean {
  if (described(value) !== "a promise") return false
  void Promise.resolve(value).catch(() => undefined)
  return true
}

/**
 * Checks one value by its rule.
 * @throws TypeError
 */
export function checkValue(who: string, name: string, value: unknown, rule: string | readonly string[]): void {
  const wanted = violation(value, rule)
  if (wanted === undefined) return
  if (value === undefined) throw new TypeError(`${who}: ${name} is missing; it must be ${wanted}`)
  const near = typeof value === "string" && Array.isArray(rule) ? nearest(value, rule) : undefined
  throw new TypeError(`${who}: ${name} must be ${wanted}, not ${described(value)}${near === undefined ? "" : `; did you mean "${near}"?`}`)
}

/**
 * Checks a whole number from `least` to `most` (default: 2^53 - 1). Undefined stands for an option that was left out.
 * @throws RangeError
 */
export function checkCount(who: string, name: string, value: number | undefined, least: number, most = Number.MAX_SAFE_INTEGER): void {
  if (value === undefined || (Number.isSafeInteger(value) && value >= least && value <= most)) return
  const wanted = most === Number.MAX_SAFE_INTEGER ? `${least} up` : `${least} to ${most}`
  throw new RangeError(`${who}: ${name} must be a whole number from ${wanted}, not ${value}`)
}

/**
 * Checks the names in an option that is an array.
 * @throws TypeError for a name that is not `known`
 */
export function checkNames(who: string, option: string, names: readonly string[], known: readonly string[]): void {
  for (const name of names) {
    if (typeof name !== "string") throw new TypeError(`${who}: ${option} must be an array of strings, but has ${described(name)} in it`)
    if (!known.includes(name)) throw new TypeError(`${who}: unknown name "${name}" in ${option}; ${suggestion(name, known, "names")}`)
  }
}

/** @throws TypeError when `value` is not a Uint8Array (of this realm or another) */
export function checkBytes(who: string, name: string, value: Uint8Array): void {
  if (tagOf(value) !== "Uint8Array") throw new TypeError(`${who}: ${name} must be a Uint8Array, not ${described(value)}`)
}

/** The name of the built-in class of `value`, from any realm: "Uint8Array", "ArrayBuffer". */
export function tagOf(value: unknown): string {
  return Object.prototype.toString.call(value).slice("[object ".length, -1)
}

/** The given options that `rules` know, to pass on to a function with fewer options. */
export function pickOptions<O extends object>(options: O, rules: Rules<O>): Partial<O> {
  const picked: Partial<O> = {}
  for (const name in rules) if (options[name] !== undefined) picked[name] = options[name]
  return picked
}

const WANTED: Readonly<Record<string, string>> = {
  boolean: "true or false", number: "a number", string: "a string", function: "a function", array: "an array", object: "an object",
}

/** What `value` should be; undefined if it complies with the rule. */
function violation(value: unknown, rule: string | readonly string[]): string | undefined {
  if (typeof rule !== "string") {
    return rule.some((choice) => choice === value) ? undefined : listed(rule.map((choice) => `"${choice}"`), "or")
  }
  const isOptional = rule.endsWith("?")
  const kind = isOptional ? rule.slice(0, -1) : rule
  return (isOptional && value === undefined) || isOfKind(value, kind) ? undefined : WANTED[kind]
}

function isOfKind(value: unknown, kind: string): boolean {
  switch (kind) {
    case "any":
      return value !== undefined
    case "array":
      return Array.isArray(value)
    case "object":
      return typeof value === "object" && value !== null
    default:
      return typeof value === kind
  }
}

/** The message of an error, or a description of any other thrown value, some of which cannot be converted to a string. */
export function reasonOf(thrown: unknown): string {
  if (thrown instanceof Error) {
    const message: unknown = thrown.message
    return typeof message === "string" ? message : thrown.name
  }
  if (typeof thrown === "object" || typeof thrown === "function") return described(thrown)
  return String(thrown)
}

/** A value as an error message shows it, short and on one line. */
export function described(value: unknown): string {
  if (typeof value === "string") return `the string ${JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value)}`
  if (typeof value === "function") return `the function ${value.name === "" ? "(anonymous)" : value.name}`
  if (Array.isArray(value)) return "an array"
  if (typeof value !== "object" || value === null) return typeof value === "bigint" ? `the bigint ${value}` : String(value)
  if (typeof Reflect.get(value, "then") === "function") return "a promise"
  const name: unknown = value.constructor?.name
  return typeof name === "string" && name !== "" && name !== "Object" ? `an object of class ${name}` : "an object"
}

function suggestion(name: string, known: readonly string[], what: "options" | "names"): string {
  const near = nearest(name, known)
  return near === undefined ? `the ${what} are ${listed(known, "and")}` : `did you mean "${near}"?`
}

/** "a, b or c". */
function listed(words: readonly string[], link: "and" | "or"): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${link} ${words.at(-1)}`
}

/** The name of `known` that the caller probably meant. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const plain = (text: string): string => text.toLowerCase().replace(/[-_ ]/g, "").slice(0, 40)
  const wrong = plain(name)
  let best: string | undefined
  // One letter in three may be wrong, or one name may be the beginning of the other.
  let least = Math.max(1, Math.floor(wrong.length / 3)) + 1
  for (const candidate of known) {
    const right = plain(candidate)
    const isCut = wrong.length > 1 && (right.startsWith(wrong) || wrong.startsWith(right))
    const distance = isCut ? Math.min(1, editDistance(wrong, right)) : editDistance(wrong, right)
    if (distance < least) {
      least = distance
      best = candidate
    }
  }
  return best
}

/** Letters to insert, remove, replace or swap with their neighbour to make `a` into `b`. */
function editDistance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const now = [row]
    for (let column = 1; column <= b.length; column++) {
      const replaced = (last[column - 1] ?? 0) + (a[row - 1] === b[column - 1] ? 0 : 1)
      let least = Math.min(replaced, (last[column] ?? 0) + 1, (now[column - 1] ?? 0) + 1)
      const isSwapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]
      if (isSwapped) least = Math.min(least, (before[column - 2] ?? 0) + 1)
      now.push(least)
    }
    before = last
    last = now
  }
  return last[b.length] ?? 0
}
