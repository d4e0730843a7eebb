/**
 * A driver of one queue on a thread of its own, over shared RAM: requests of all kinds, in chains that are cut and laid out at random, with
 * an interrupt asked for after one or after several. It checks every byte that comes back. Plain JavaScript: a Worker loads it as it is.
 */
import { parentPort, workerData } from "node:worker_threads"

const { ram, bell, bells, ring, isPacked, indirect, hasEventIdx, isInOrder, slots, seed, requests, kinds, mostAtOnce } = workerData
const words = new Uint16Array(ram)
const data = new DataView(ram)
const bytes = new Uint8Array(ram)
const { size, desc, avail, used } = ring
const load = (address) => Atomics.load(words, address / 2)
const store = (address, value) => Atomics.store(words, address / 2, value)

const TYPE = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, WRITE_ZEROES: 13 }
const FLAG = { NEXT: 1, WRITE: 2, INDIRECT: 4, AVAIL: 0x80, USED: 0x8000 }
const SECTOR = 512
const SERIAL = "s".charCodeAt(0)
/** Milliseconds: an interrupt that takes so long is lost. */
const LOST = 20_000

let state = seed
function random(limit) {
  state = (Math.imul(state, 1103515245) + 12345) >>> 0
  return (state >>> 8) % limit
}

/** What each sector was last written with. */
const content = new Map()
const free = slots.map((_, index) => index)
const sent = new Map()
/** Ids, the oldest first. */
const order = []
const freeDescriptors = Array.from({ length: size }, (_, index) => index)
/** Descriptors of a packed ring since the beginning. */
let driverPlace = 0
let devicePlace = 0
/** First descriptors that have been written and not been marked. */
let hidden = []
let availIdx = 0
let usedIdx = 0
let [begun, started, finished, kicks, sleeps] = [0, 0, 0, 0, 0]

// --- Places of a packed ring: the wrap counter is 1 in the first lap ---

const slotOf = (place) => place % size
const hasWrap = (place) => Math.floor(place / size) % 2 === 0
const wordOf = (place) => slotOf(place) + (hasWrap(place) ? 0x8000 : 0)

// --- Requests ---

const wordAt = (sector, value, at) => (Math.imul(sector + 1, 0x9e37_79b1) ^ Math.imul(value, 0x85eb_ca6b)) + at >>> 0

function setHeader(at, type, sector) {
  data.setUint32(at, type, true)
  data.setUint32(at + 4, 0, true)
  data.setUint32(at + 8, sector, true)
  data.setUint32(at + 12, 0, true)
}

function fillSectors(at, first, count, value) {
  for (let sector = 0; sector < count; sector++) {
    for (let byte = 0; byte < SECTOR; byte += 4) data.setUint32(at + SECTOR * sector + byte, wordAt(first + sector, value, byte), true)
  }
}

/** Some pieces of `length` bytes, cut anywhere. */
function piecesOf(at, length, flags) {
  const pieces = []
  let left = length
  for (let cuts = random(4); cuts > 0 && left > 1; cuts--) {
    const piece = Math.min(left - 1, random(2) === 0 ? SECTOR : 1 + random(left))
    pieces.push([at + length - left, piece, flags])
    left -= piece
  }
  return [...pieces, [at + length - left, left, flags]]
}

/** Puts a request into RAM. Returns its parts as address, length and flags. */
function partsOf({ slot, type, first, count, value }) {
  const { header, buffer, status } = slots[slot]
  const hasSector = type === TYPE.IN || type === TYPE.OUT
  setHeader(header, type, hasSector ? first : 0)
  bytes[status] = 0xee
  const parts = [[header, 16, 0]]
  if (type === TYPE.OUT) fillSectors(buffer, first, count, value)
  else bytes.fill(0xbb, buffer, buffer + SECTOR * count)
  if (hasSector) parts.push(...piecesOf(buffer, SECTOR * count, type === TYPE.IN ? FLAG.WRITE : 0))
  else if (type === TYPE.GET_ID) parts.push([buffer, 20, FLAG.WRITE])
  else if (type === TYPE.WRITE_ZEROES) {
    setHeader(buffer, first, count)
    data.setUint32(buffer + 4, 0, true)
    parts.push([buffer, 16, 0])
  }
  return [...parts, [status, 1, FLAG.WRITE]]
}

function describe(at, [address, length, flags], next) {
  data.setUint32(at, address, true)
  data.setUint32(at + 4, 0, true)
  data.setUint32(at + 8, length, true)
  data.setUint16(at + 12, isPacked ? next : flags, true)
  if (!isPacked) data.setUint16(at + 14, next, true)
}

function putTable(table, parts) {
  for (const [index, part] of parts.entries()) {
    const isLast = index === parts.length - 1
    const [address, length, flags] = part
    describe(table + 16 * index, [address, length, isPacked || isLast ? flags : flags | FLAG.NEXT], isLast ? 0 : index + 1)
    if (isPacked) data.setUint16(table + 16 * index + 14, flags, true)
  }
}

/** Makes one request of the slot that is free the longest. Returns false where the ring has no room. */
function begin() {
  const [slot] = free
  const { first: start, sectors, table } = slots[slot]
  const type = kinds[random(kinds.length)]
  const count = 1 + random(sectors)
  const request = { slot, type, count, first: start + random(sectors - count + 1), value: random(0x7fff_ffff) }
  const parts = partsOf(request)
  const isIndirect = indirect === "always" || (indirect === "sometimes" && random(2) === 0)
  const needed = isIndirect ? 1 : parts.length
  if (isPacked ? driverPlace - devicePlace + needed > size : freeDescriptors.length < needed) return false
  free.shift()
  if (isIndirect) putTable(table, parts)
  const chain = isIndirect ? [[table, 16 * parts.length, FLAG.INDIRECT]] : parts
  const { id, taken } = isPacked ? putPacked(chain, slot) : putSplit(chain)
  sent.set(id, { ...request, taken })
  order.push(id)
  started++
  begun++
  return true
}

function putPacked(chain, slot) {
  const id = slot * 257 + 5
  for (const [index, part] of chain.entries()) {
    const place = driverPlace + index
    const at = desc + 16 * slotOf(place)
    const isLast = index === chain.length - 1
    const flags = part[2] | (isLast ? 0 : FLAG.NEXT) | (hasWrap(place) ? FLAG.AVAIL : FLAG.USED)
    describe(at, part, isLast ? id : 0xdead)
    if (index === 0) hidden.push({ at: at + 14, flags, place })
    else store(at + 14, flags)
  }
  driverPlace += chain.length
  return { id, taken: chain.length }
}

function putSplit(chain) {
  const taken = chain.map(() => freeDescriptors.splice(random(freeDescriptors.length), 1)[0])
  for (const [index, [address, length, flags]] of chain.entries()) {
    const isLast = index === chain.length - 1
    describe(desc + 16 * taken[index], [address, length, isLast ? flags : flags | FLAG.NEXT], isLast ? 0x7777 : taken[index + 1])
  }
  data.setUint16(avail + 4 + 2 * ((availIdx + started) % size), taken[0], true)
  return { id: taken[0], taken }
}

// --- What comes back ---

function finish(id, length) {
  const request = sent.get(id)
  if (request === undefined) throw new Error(`${id} came back, which is not in flight`)
  sent.delete(id)
  if (isInOrder && order[0] !== id) throw new Error(`${id} came back out of order`)
  order.splice(order.indexOf(id), 1)
  const { slot, type, first, count, value, taken } = request
  const { buffer, status } = slots[slot]
  if (bytes[status] !== 0) throw new Error(`status ${bytes[status]} of a request of type ${type}`)
  const wanted = type === TYPE.IN ? SECTOR * count + 1 : type === TYPE.GET_ID ? 21 : 1
  if (length !== wanted) throw new Error(`used length ${length} of a request of type ${type}, not ${wanted}`)
  for (let sector = first; sector < first + count; sector++) {
    if (type === TYPE.OUT) content.set(sector, value)
    else if (type === TYPE.WRITE_ZEROES) content.delete(sector)
    else if (type === TYPE.IN) checkSector(sector, buffer + SECTOR * (sector - first))
  }
  if (type === TYPE.GET_ID && bytes[buffer] !== SERIAL) throw new Error(`a serial number that begins with ${bytes[buffer]}`)
  free.push(slot)
  if (!isPacked) freeDescriptors.push(...taken)
  finished++
  return taken
}

function checkSector(sector, at) {
  const value = content.get(sector)
  for (let byte = 0; byte < SECTOR; byte += 4) {
    const expected = value === undefined ? 0 : wordAt(sector, value, byte)
    const found = data.getUint32(at + byte, true)
    if (found !== expected) throw new Error(`byte ${byte} of sector ${sector}: ${found.toString(16)}, not ${expected.toString(16)}`)
  }
}

function isUsed() {
  if (!isPacked) return load(used + 2) !== usedIdx
  const marks = FLAG.AVAIL | FLAG.USED
  return sent.size > 0 && (load(desc + 16 * slotOf(devicePlace) + 14) & marks) === (hasWrap(devicePlace) ? marks : 0)
}

function takeUsed() {
  let any = false
  for (; isUsed(); any = true) {
    const at = isPacked ? desc + 16 * slotOf(devicePlace) : used + 4 + 8 * (usedIdx % size)
    if (isPacked) devicePlace += finish(data.getUint16(at + 12, true), data.getUint32(at + 8, true))
    else {
      finish(data.getUint32(at, true), data.getUint32(at + 4, true))
      usedIdx = (usedIdx + 1) & 0xffff
    }
  }
  return any
}

// --- Telling each other ---

/** Makes what has been begun available, and kicks where the device wants to know. */
function publish() {
  if (started === 0) return
  const wanted = isPacked ? publishPacked() : publishSplit()
  started = 0
  if (!wanted) return
  kicks++
  Atomics.add(bell, bells.kick, 1)
  Atomics.add(bell, bells.any, 1)
  Atomics.notify(bell, bells.any)
}

function publishPacked() {
  const from = hidden[0].place
  // The first one last: the device takes none of them before.
  for (const { at, flags } of hidden.reverse()) store(at, flags)
  hidden = []
  const flags = load(used + 2) & 3
  if (flags !== 2 || !hasEventIdx) return flags !== 1
  const event = load(used)
  for (let place = from; place < driverPlace; place++) if (wordOf(place) === event) return true
  return false
}

function publishSplit() {
  const old = availIdx
  availIdx = (availIdx + started) & 0xffff
  store(avail + 2, availIdx)
  if (!hasEventIdx) return (load(used) & 1) === 0
  return ((availIdx - load(used + 4 + 8 * size) - 1) & 0xffff) < ((availIdx - old) & 0xffff)
}

/** Asks for an interrupt with the next used buffer or a later one, and sleeps unless it is there already. */
function wait() {
  const interrupts = Atomics.load(bell, bells.interrupt)
  const ahead = !isPacked && hasEventIdx && sent.size > 1 && random(3) === 0 ? random(sent.size) : 0
  if (isPacked) {
    if (hasEventIdx) store(avail, wordOf(devicePlace))
    store(avail + 2, hasEventIdx ? 2 : 0)
  } else if (hasEventIdx) store(avail + 4 + 2 * size, (usedIdx + ahead) & 0xffff)
  else store(avail, 0)
  if (ahead > 0 ? ((load(used + 2) - usedIdx) & 0xffff) > ahead : isUsed()) return
  sleeps++
  if (Atomics.wait(bell, bells.interrupt, interrupts, LOST) === "timed-out") throw new Error(`no interrupt came: ${sent.size} in flight`)
  suppress()
}

/** No interrupts while this thread is awake. */
function suppress() {
  if (isPacked) store(avail + 2, 1)
  else if (!hasEventIdx) store(avail, 1)
}

try {
  suppress()
  while (finished < requests) {
    const most = 1 + random(mostAtOnce)
    let hasRoom = true
    while (hasRoom && free.length > 0 && begun < requests && started < most) hasRoom = begin()
    publish()
    const mustWait = !hasRoom || free.length === 0 || begun === requests || random(4) === 0
    if (!takeUsed() && mustWait && sent.size > 0) wait()
  }
  parentPort.postMessage({ finished, kicks, sleeps, content: [...content] })
} catch (error) {
  parentPort.postMessage({ error: error.stack })
}
