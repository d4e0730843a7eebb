/** Mutations of a saved state: what another program, a bug, a broken file or somebody hostile may make of one. */
import type { Rng } from "../../support/rng.ts"

/** What a getter of a hostile state throws. It is the caller's own: the device may let it through. */
export class HostileGetter extends Error {
  override readonly name = "HostileGetter"
}

function throwing(): never {
  throw new HostileGetter("a getter of the state threw")
}

/** Numbers at the edges of what words, indices and doubles can be. */
const NUMBERS: readonly number[] = [
  0, -0, 1, 2, 3, 7, 8, 15, 16, 63, 64, 127, 128, 255, 256, 1023, 4096, 0x7fff, 0x8000, 0xffff, 0x1_0000, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1,
  2 ** 32, 2 ** 53 - 1, 2 ** 53, 2 ** 63, 2 ** 64, 1e308, -1, -(2 ** 31), 0.5, 1e-300, Number.NaN, Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
]

/** Values of the wrong kind. JSON has the first few; the others come from callers who did not use it. */
const STRANGERS: readonly (() => unknown)[] = [
  () => null, () => true, () => false, () => "", () => "0", () => "1\n2", () => "x".repeat(100_000), () => [], () => ({}), () => [[[]]],
  () => ({ length: 2, 0: 1, 1: 2 }), () => JSON.parse('{"__proto__":{"version":2,"size":16,"heads":[]}}') as unknown,
  () => undefined, () => 10n, () => Symbol("state"), () => throwing, () => new Uint8Array(64), () => new Date(0), () => new Map([[1, 2]]),
  () => new Array(3), () => new Array(2 ** 32 - 1), () => Object.create(null) as unknown, cyclic, cyclicList, deep,
  () => ({ toJSON: throwing, toString: throwing, valueOf: throwing }),
  () => Object.defineProperty({}, "size", { get: throwing, enumerable: true }),
  () => Object.defineProperty([1, 2], 0, { get: throwing }), () => new Proxy({}, { get: throwing, ownKeys: throwing }),
]

function cyclic(): unknown {
  const one: Record<string, unknown> = {}
  one["self"] = one
  return one
}

function cyclicList(): unknown {
  const list: unknown[] = []
  list.push(list, list)
  return list
}

function deep(): unknown {
  let value: unknown = []
  for (let depth = 0; depth < 20_000; depth++) value = depth % 2 === 0 ? [value] : { value }
  return value
}

type Node = unknown[] | Record<string, unknown>

/** A place in a state: the value of `key` in `parent`. */
interface Place {
  readonly parent: Node
  readonly key: string | number
}

function isNode(value: unknown): value is Node {
  return typeof value === "object" && value !== null
}

/** Every object and list of `state`, which is JSON. */
function nodesOf(state: Node): ReadonlySet<unknown> {
  const nodes = new Set<unknown>([state])
  for (const node of nodes) for (const value of Object.values(node as Node)) if (isNode(value)) nodes.add(value)
  return nodes
}

function get({ parent, key }: Place): unknown {
  return (parent as Record<string | number, unknown>)[key]
}

function set({ parent, key }: Place, value: unknown): void {
  ;(parent as Record<string | number, unknown>)[key] = value
}

/** Draws a place, from the root on downwards: what is in no long list comes as often. Only `nodes` are looked into: strangers are not. */
function draw(state: Node, nodes: ReadonlySet<unknown>, rng: Rng): Place {
  for (let parent = state; ; ) {
    const place = { parent, key: rng.pick(keysOf(parent)) }
    const value = get(place)
    if (!nodes.has(value) || rng.chance(0.2) || keysOf(value as Node).length === 0) return place
    parent = value as Node
  }
}

function keysOf(node: Node): (string | number)[] {
  return Array.isArray(node) ? [...node.keys()] : Object.keys(node)
}

/** Not one of those strangers that only look long. */
function isShortList(value: unknown): value is unknown[] {
  return Array.isArray(value) && value.length < 200_000
}

/** Another number near `value`, or at an edge. */
function otherNumber(value: number, rng: Rng): number {
  return rng.pick([
    () => rng.pick(NUMBERS), () => value + 1, () => value - 1, () => value * 2, () => (value ^ (1 << rng.below(31))) >>> 0,
    () => rng.u32(), () => rng.below(256), () => value + 0.5,
  ])()
}

/** Changes a list. */
function mutateList(list: unknown[], rng: Rng): void {
  const some = rng.below(Math.max(list.length, 1))
  rng.pick([
    () => list.pop(), () => list.push(list[some]), () => list.reverse(), () => (list.length = 0),
    () => list.splice(some, 1), () => list.push(...Array.from({ length: rng.pick([16, 1000, 70_000]) }, () => list[some])),
    () => list.push(rng.pick(NUMBERS)), () => delete list[some], () => list.push([rng.below(8), rng.u32()]), () => (list.length += 3),
  ])()
}

/** Changes `count` places of `state`, which is JSON. Returns what it has done, for people. */
export function mutate(state: Node, count: number, rng: Rng): string[] {
  const nodes = nodesOf(state)
  const place = () => draw(state, nodes, rng)
  return Array.from({ length: count }, () => mutateOne(place, rng))
}

function mutateOne(draw: () => Place, rng: Rng): string {
  const place = draw()
  const { parent, key } = place
  const value = get(place)
  const kinds: Readonly<Record<string, () => void>> = {
    "a stranger": () => set(place, rng.pick(STRANGERS)()),
    "another's value": () => set(place, get(draw())),
    "an edge": () => set(place, rng.pick(NUMBERS)),
    "another number": () => set(place, otherNumber(typeof value === "number" ? value : 0, rng)),
    "a missing property": () => isShortList(parent) ? mutateList(parent, rng) : Reflect.deleteProperty(parent, key),
    "an added property": () => set({ parent, key: rng.pick(["extra", "__proto__", "held", "chains", "heads"]) }, [[0, rng.below(2000)]]),
    "a changed list": () => mutateList(isShortList(value) ? value : isShortList(parent) ? parent : [], rng),
  }
  const kind = rng.pick([...Object.keys(kinds), "another number", "another number", "a changed list"])
  kinds[kind]?.()
  return `${kind} at ${String(key)}`
}
