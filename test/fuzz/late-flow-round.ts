/**
 * One round on a file that answers late and goes on sending to whoever reads it in order, as HTTP does: readers in order, alone and beside
 * others, by the file, by the disk and by a guest that resets its device. Calls of the source fail, and the disk is closed under load. Each
 * byte that is read must be right, each error one that was injected, and a buffer is left alone once its read has been answered.
 */
import { BackingError } from "../../src/backing/backing.ts"
import { AwaitedDisk } from "../../src/backing/paging/awaited-disk.ts"
import { PagedFile } from "../../src/backing/paging/paged-file.ts"
import { untilLoaded } from "../../src/backing/paging/until-loaded.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { LateFile } from "../backing/paging/late-file.ts"
import { settled } from "../harness/fake-disk.ts"
import { RingGuest } from "../harness/guest.ts"
import { IOERR, OK, T } from "../harness/words.ts"
import { MemoryFile } from "../support/memory-file.ts"
import type { Rng } from "../support/rng.ts"

const KIB = 1024
const UNTOUCHED = 0xee
const AFTERWARDS = 0x55

interface Round {
  readonly rng: Rng
  readonly content: Uint8Array
  readonly source: LateFile
  readonly file: PagedFile
  readonly disk: AwaitedDisk
  /** Buffers whose reads have been answered, and what was put there then. */
  readonly answered: Uint8Array[]
  isClosing: boolean
}

/** Reads `length` bytes from `offset` in one of the ways. */
type Read = (round: Round, offset: number, length: number) => Promise<void>

/** Runs one round. Returns the pieces that came from the stream. @throws Error at the first byte or error that is not what it must be */
export async function lateFlowRound(rng: Rng): Promise<number> {
  const round = await open(rng)
  const { source, disk } = round
  const odds = rng.pick([0, 0, 0.01, 0.1])
  source.failing = () => (rng.chance(odds) ? new Error("injected") : undefined)
  if (rng.chance(0.3)) await guestReads(round)
  else {
    const reading = Array.from({ length: rng.pick([1, 1, 2, 4]) }, () => readAll(round, rng.pick([readFile, readDisk, readDisk])))
    if (rng.chance(0.3)) await closeUnderLoad(round, reading)
    await Promise.all(reading)
  }
  await disk.close()
  for (let turn = 0; turn < 20; turn++) await settled()
  if (!round.answered.every((buffer) => buffer.every((byte) => byte === AFTERWARDS))) throw new Error("a buffer changes after its read")
  return source.counts.flow
}

async function open(rng: Rng): Promise<Round> {
  const content = rng.bytes(rng.pick([600, 1500]) * KIB + rng.pick([0, 512, 7680]))
  const flowsAfter = rng.pick([0, 1, 128 * KIB, 256 * KIB])
  const source = new LateFile(MemoryFile.of(content, { readOnly: true }), rng, { flowsAfter })
  const pageSize = rng.pick([512, 4096, 16_384])
  const file = await PagedFile.open(source, { pageSize, cacheSize: rng.pick([pageSize, 256 * KIB, 4096 * KIB]) })
  return { rng, content, source, file, disk: new AwaitedDisk(new RawBacking(file), [file]), answered: [], isClosing: false }
}

/** From some place on to the end, mostly in order, some reads at a time. */
async function readAll(round: Round, read: Read): Promise<void> {
  const { rng, content } = round
  const unit = rng.pick([512, 4096, 16_384])
  let at = rng.pick([0, 0, unit, 512])
  while (at < content.length && !round.isClosing) {
    const steps: Promise<void>[] = []
    for (let count = rng.pick([1, 1, 1, 3]); count > 0 && at < content.length; count--) {
      const start = at
      at = Math.min(content.length, at + unit * Math.ceil((rng.pick([64, 128, 128, 160, 300]) * KIB) / unit))
      const length = at - start
      steps.push(insist(round, () => read(round, start, length)))
    }
    if (rng.chance(0.1)) {
      const offset = rng.below(content.length / 512) * 512
      steps.push(insist(round, () => read(round, offset, Math.min(content.length - offset, rng.pick([512, 4096, 131_072])))))
    }
    await Promise.all(steps)
  }
}

/** Repeats what an injected failure has ended. Nothing is repeated once the disk is closed. */
async function insist(round: Round, work: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof BackingError)) throw error
      if (round.isClosing && error.code === "closed") return
      if (!error.message.includes("injected")) throw error
    }
  }
}

async function readDisk(round: Round, offset: number, length: number): Promise<void> {
  const buffer = new Uint8Array(length).fill(UNTOUCHED)
  try {
    await round.disk.pread(buffer, offset)
    expectContent(round, buffer, offset)
  } finally {
    round.answered.push(buffer.fill(AFTERWARDS))
  }
}

/** The end of the file may lie inside the range: there is less to read then. */
async function readFile(round: Round, offset: number, length: number): Promise<void> {
  const { file, rng, content } = round
  const wanted = length + rng.pick([0, 0, 512, 100_000])
  const expected = Math.min(wanted, content.length - offset)
  const buffer = new Uint8Array(wanted).fill(UNTOUCHED)
  let filled = 0
  const past = file.readPast(offset, wanted, (piece) => {
    buffer.set(piece, filled)
    filled += piece.length
  })
  const count = await (past ?? untilLoaded(() => file.read(buffer, offset)))
  if (count !== expected) throw new Error(`a read of ${wanted} bytes at ${offset} of ${content.length} has ${count} bytes`)
  expectContent(round, buffer.subarray(0, count), offset)
}

async function closeUnderLoad(round: Round, reading: readonly Promise<void>[]): Promise<void> {
  let isOver = false
  void Promise.allSettled(reading).then(() => (isOver = true))
  for (let turns = round.rng.below(200); turns > 0 && !isOver; turns--) await settled()
  round.isClosing = true
  await round.disk.close()
}

/** A guest reads in order, and resets its device now and then: from then on RAM is its own. */
async function guestReads({ rng, content, disk, source }: Round): Promise<void> {
  const guest = new RingGuest({ backing: disk })
  for (let at = 0; at + 512 <= content.length;) {
    guest.start()
    const requests: { readonly at: number; readonly placed: ReturnType<RingGuest["place"]> }[] = []
    for (let count = rng.pick([1, 1, 3]); count > 0 && at + 512 <= content.length; count--) {
      const length = Math.min(rng.pick([128, 160, 256]) * KIB, content.length - at)
      requests.push({ at, placed: guest.place({ type: T.IN, sector: at / 512, in: length }) })
      at += length
    }
    guest.publish(requests.map(({ placed }) => guest.chain(placed.pieces)))
    guest.kick()
    if (rng.chance(0.2)) {
      for (let turns = rng.below(20); turns > 0; turns--) await settled()
      guest.status = 0
      const before = guest.machine.ram.slice()
      for (let calls = -1; calls !== source.calls;) {
        calls = source.calls
        for (let turn = 0; turn < 30; turn++) await settled()
      }
      if (Buffer.compare(before, guest.machine.ram) !== 0) throw new Error("RAM changes after a reset")
      continue
    }
    await guest.served()
    for (const { at: offset, placed } of requests) {
      const { status, data } = guest.reply(placed, 0)
      if (status === OK) expectContent({ content }, data, offset)
      else if (status !== IOERR || source.failing === undefined) throw new Error(`a read at ${offset} has the status ${status}`)
    }
  }
}

function expectContent({ content }: Pick<Round, "content">, found: Uint8Array, offset: number): void {
  if (Buffer.compare(found, content.subarray(offset, offset + found.length)) === 0) return
  const at = found.findIndex((byte, index) => byte !== content[offset + index])
  throw new Error(`byte ${offset + at} of a read of ${found.length} bytes at ${offset} is ${found[at]}, not ${content[offset + at]}`)
}
