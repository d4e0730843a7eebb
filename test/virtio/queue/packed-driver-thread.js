/**
 * A driver of a packed ring on a thread of its own, over shared RAM: it keeps the ring full of reads and writes, checks every byte that
 * comes back, and sleeps only when the rules of [VIRTIO] 2.8.10 say that an interrupt will follow. Plain JavaScript: a Worker loads it as
 * it is.
 */
import { parentPort, workerData } from "node:worker_threads"

const { ram, bell, ring, slots: buffers, requests, eventIdx, seed } = workerData
const words = new Uint16Array(ram)
const data = new DataView(ram)
const bytes = new Uint8Array(ram)
const { size, desc, avail, used } = ring
const load = (address) => Atomics.load(words, address / 2)
const store = (address, value) => Atomics.store(words, address / 2, value)

let state = seed
function random(limit) {
  state = (Math.imul(state, 1103515245) + 12345) >>> 0
  return (state >>> 8) % limit
}

/** A place in the ring: descriptors since the beginning. */
const slotOf = (place) => place % size
const wrapOf = (place) => Math.floor(place / size) % 2 === 0
const wordOf = (place) => slotOf(place) + (wrapOf(place) ? 0x8000 : 0)
const marksOf = (place) => (wrapOf(place) ? 0x0080 : 0x8000)

/** What each sector was last written with; a buffer owns the sectors that are congruent to it. */
const content = new Map()
const free = buffers.map((_, index) => index)
const sent = new Map()
let availPlace = 0
let usedPlace = 0
let hidden = []
let started = 0
let finished = 0
let kicks = 0
let sleeps = 0

function put(place, [address, length, flags], id, isHead) {
  const at = desc + 16 * slotOf(place)
  data.setUint32(at, address, true)
  data.setUint32(at + 4, 0, true)
  data.setUint32(at + 8, length, true)
  data.setUint16(at + 12, id, true)
  const marked = flags | marksOf(place)
  if (isHead) hidden.push([at + 14, marked, place])
  else store(at + 14, marked)
}

function begin(index) {
  const { header, buffer, status } = buffers[index]
  const sector = index + buffers.length * random(16)
  const isWrite = random(2) === 0
  const value = 1 + random(255)
  data.setUint32(header, isWrite ? 1 : 0, true)
  data.setUint32(header + 8, sector, true)
  bytes.fill(isWrite ? value : 0, buffer, buffer + 512)
  bytes[status] = 0xee
  const id = (index * 257 + 5) & 0xffff
  const parts = [[header, 16, 1], [buffer, 512, isWrite ? 1 : 3], [status, 1, 2]]
  for (const [at, part] of parts.entries()) put(availPlace + at, part, at === 2 ? id : 0xdead, at === 0)
  sent.set(id, { index, sector, isWrite, value })
  availPlace += 3
  started++
}

function finish(id, length) {
  const request = sent.get(id)
  if (request === undefined) throw new Error(`buffer ${id} was returned, but is not in flight`)
  sent.delete(id)
  const { index, sector, isWrite, value } = request
  const { buffer, status } = buffers[index]
  if (bytes[status] !== 0) throw new Error(`status ${bytes[status]} of buffer ${id}`)
  if (length !== (isWrite ? 1 : 513)) throw new Error(`used length ${length} of buffer ${id}`)
  if (isWrite) content.set(sector, value)
  else {
    const expected = content.get(sector) ?? 0
    for (let at = buffer; at < buffer + 512; at++) {
      if (bytes[at] !== expected) throw new Error(`sector ${sector} holds ${bytes[at]}, expected ${expected}`)
    }
  }
  free.push(index)
  finished++
}

const isUsed = () => (load(desc + 16 * slotOf(usedPlace) + 14) & 0x8080) === (wrapOf(usedPlace) ? 0x8080 : 0)

function takeUsed() {
  let any = false
  while (sent.size > 0 && usedPlace < availPlace && isUsed()) {
    const at = desc + 16 * slotOf(usedPlace)
    finish(data.getUint16(at + 12, true), data.getUint32(at + 8, true))
    usedPlace += 3
    any = true
  }
  return any
}

/** Shows `started` requests, the first head last; kicks when the device wants to know. */
function publish() {
  if (hidden.length === 0) return
  const from = hidden[0][2]
  for (const [address, flags] of hidden.reverse()) store(address, flags)
  hidden = []
  started = 0
  const flags = load(used + 2) & 3
  let wanted = flags !== 1
  if (flags === 2 && eventIdx) {
    wanted = false
    const event = load(used)
    for (let place = from; place < availPlace; place++) if (wordOf(place) === event) wanted = true
  }
  if (!wanted) return
  kicks++
  Atomics.add(bell, 0, 1)
  Atomics.notify(bell, 0)
}

/** Asks for an interrupt with the next used buffer, and sleeps unless one is there already. */
function wait() {
  const interrupts = Atomics.load(bell, 1)
  if (eventIdx) store(avail, wordOf(usedPlace))
  store(avail + 2, eventIdx ? 2 : 0)
  if (isUsed()) return
  sleeps++
  if (Atomics.wait(bell, 1, interrupts, 20_000) === "timed-out") {
    throw new Error(`no interrupt came: used ${usedPlace}, available ${availPlace}, device events ${load(used)} ${load(used + 2)}`)
  }
  store(avail + 2, 1)
}

try {
  store(avail + 2, 1)
  let begun = 0
  while (finished < requests) {
    const burst = 1 + random(free.length + 1)
    while (free.length > 0 && begun < requests && started < burst && availPlace - usedPlace + 3 <= size) {
      begin(free.shift())
      begun++
    }
    publish()
    if (!takeUsed() && (free.length === 0 || begun === requests || availPlace - usedPlace + 3 > size)) wait()
  }
  parentPort.postMessage({ finished, kicks, sleeps })
} catch (error) {
  parentPort.postMessage({ error: error.message })
}
