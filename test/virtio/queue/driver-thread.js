/**
 * A driver on a thread of its own, over shared RAM: it keeps a ring full of reads and writes, checks every byte that comes back, and
 * sleeps only when the rules of [VIRTIO] 2.7.7 say that an interrupt will follow. Plain JavaScript: a Worker loads it as it is.
 */
import { parentPort, workerData } from "node:worker_threads"

const { ram, bell, ring, slots, requests, eventIdx, seed } = workerData
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

/** What each sector was last written with; a slot owns the sectors that are congruent to it. */
const content = new Map()
const free = slots.map((_, index) => index)
const sent = new Map()
let availIdx = 0
let usedIdx = 0
let started = 0
let finished = 0
let kicks = 0
let sleeps = 0

function begin(slot) {
  const { header, buffer, status } = slots[slot]
  const sector = slot + slots.length * random(16)
  const isWrite = random(2) === 0
  const value = 1 + random(255)
  data.setUint32(header, isWrite ? 1 : 0, true)
  data.setUint32(header + 8, sector, true)
  bytes.fill(isWrite ? value : 0, buffer, buffer + 512)
  bytes[status] = 0xee
  for (const [at, [address, length, flags]] of [[header, 16, 1], [buffer, 512, isWrite ? 1 : 3], [status, 1, 2]].entries()) {
    const entry = desc + 16 * (3 * slot + at)
    data.setUint32(entry, address, true)
    data.setUint32(entry + 4, 0, true)
    data.setUint32(entry + 8, length, true)
    data.setUint16(entry + 12, flags, true)
    data.setUint16(entry + 14, 3 * slot + at + 1, true)
  }
  sent.set(3 * slot, { slot, sector, isWrite, value })
  data.setUint16(avail + 4 + 2 * ((availIdx + started) % size), 3 * slot, true)
}

function finish(id, length) {
  const request = sent.get(id)
  if (request === undefined) throw new Error(`head ${id} was returned, but is not in flight`)
  sent.delete(id)
  const { slot, sector, isWrite, value } = request
  const { buffer, status } = slots[slot]
  if (bytes[status] !== 0) throw new Error(`status ${bytes[status]} of head ${id}`)
  if (length !== (isWrite ? 1 : 513)) throw new Error(`used length ${length} of head ${id}`)
  if (isWrite) content.set(sector, value)
  else {
    const expected = content.get(sector) ?? 0
    for (let at = buffer; at < buffer + 512; at++) {
      if (bytes[at] !== expected) throw new Error(`sector ${sector} holds ${bytes[at]}, expected ${expected}`)
    }
  }
  free.push(slot)
  finished++
}

function takeUsed() {
  let any = false
  while (load(used + 2) !== usedIdx) {
    const at = used + 4 + 8 * (usedIdx % size)
    finish(data.getUint32(at, true), data.getUint32(at + 4, true))
    usedIdx = (usedIdx + 1) & 0xffff
    any = true
  }
  return any
}

/** Publishes `started` requests; kicks when the device wants to know. */
function publish() {
  if (started === 0) return
  const old = availIdx
  availIdx = (availIdx + started) & 0xffff
  started = 0
  store(avail + 2, availIdx)
  const wanted = eventIdx ? ((availIdx - load(used + 4 + 8 * size) - 1) & 0xffff) < ((availIdx - old) & 0xffff) : (load(used) & 1) === 0
  if (!wanted) return
  kicks++
  Atomics.add(bell, 0, 1)
  Atomics.notify(bell, 0)
}

/** Asks for an interrupt with the next used buffer, and sleeps unless one is there already. */
function wait() {
  const interrupts = Atomics.load(bell, 1)
  if (eventIdx) store(avail + 4 + 2 * size, usedIdx)
  else store(avail, 0)
  if (load(used + 2) !== usedIdx) return
  sleeps++
  if (Atomics.wait(bell, 1, interrupts, 20_000) === "timed-out") {
    throw new Error(
      `no interrupt came: used.idx ${load(used + 2)}, seen ${usedIdx}, avail.idx ${availIdx}, avail_event ${load(used + 4 + 8 * size)}`,
    )
  }
  if (!eventIdx) store(avail, 1)
}

try {
  if (!eventIdx) store(avail, 1)
  let begun = 0
  while (finished < requests) {
    const burst = 1 + random(free.length + 1)
    while (free.length > 0 && begun < requests && started < burst) {
      begin(free.shift())
      started++
      begun++
    }
    publish()
    if (!takeUsed() && (free.length === 0 || begun === requests)) wait()
  }
  parentPort.postMessage({ finished, kicks, sleeps })
} catch (error) {
  parentPort.postMessage({ error: error.message })
}
