/**
 * `vioblk run`: a machine with a disk, driven through its virtqueues as a guest would do it. With an image, reads and summarizes all of it;
 * without one, writes, flushes and reads back a temporary disk.
 */
import { createHash } from "node:crypto"
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { BackingError, type VirtioBacking } from "../../../backing/backing.ts"
import { hostError } from "../../../backing/host/host-errors.ts"
import { openImage } from "../../../backing/open.ts"
import { DETECT_ZEROES } from "../../../backing/zeroes/detect-zeroes.ts"
import type { VirtioBlk } from "../../../virtio/blk/device.ts"
import { prometheusText } from "../../../virtio/blk/observation/prometheus.ts"
import { BlockDriver, findBlockDevices } from "../../driver/block/driver.ts"
import { BlockRequestError } from "../../driver/errors.ts"
import { Machine } from "../../machine.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { passphraseOf } from "../secrets.ts"
import { type Description, describe, descriptionLines } from "../device/describe.ts"
import { formatBytes, formatThroughput } from "../format.ts"
import { parsePartitionTable, PARTITION_TABLE_SECTORS, type PartitionTable } from "../device/partition-table.ts"
import { stoppable, turn } from "../long-work.ts"
import { Progress } from "../progress.ts"
import { print, printHelp, printJson } from "../output.ts"
import { tracer } from "../device/trace.ts"

const RAM_SIZE = 64 << 20
const DEMO_SIZE = 64 << 20
const SECTOR = 512
/** Bytes for one queue before the next one has its turn. */
const STRETCH = 16 << 20
const REWRITE = 1 << 20

interface Settings {
  readonly legacy: boolean
  readonly queues: number
  readonly queueSize: number
  readonly json: boolean
  readonly metrics: boolean
  readonly trace: boolean
}

/** A driven disk, ready for requests. */
interface Session {
  readonly driver: BlockDriver
  readonly device: VirtioBlk
  readonly description: Description
  readonly settings: Settings
  /** Stops `inStretches`. */
  readonly signal?: AbortSignal
}

export async function run(given: Arguments): Promise<number> {
  const path = given.words.length === 0 ? undefined : given.image
  const queueSize = given.count("queue-size", 4, 32768) ?? 256
  if (!Number.isInteger(Math.log2(queueSize))) throw new UsageError(`--queue-size ${queueSize}: it must be a power of two`)
  const { json } = given
  const metrics = given.flag("metrics")
  if (json && metrics) throw new UsageError("--json and --metrics exclude each other")
  const settings: Settings = {
    legacy: given.flag("legacy"), queues: given.count("queues", 1, 64) ?? 1, queueSize, json, metrics, trace: given.flag("trace"),
  }
  const format = given.choice("format", ["raw", "qcow2", "luks"])
  const write = given.flag("write")
  if (path === undefined) {
    if (format !== undefined || write) throw new UsageError(`--${write ? "write" : "format"} needs an image`)
    return tryDevice(settings)
  }
  const detectZeroes = given.choice("detect-zeroes", DETECT_ZEROES) ?? "off"
  const image = openImage(path, {
    readOnly: !write,
    lockReadOnly: true,
    detectZeroes,
    passphrase: passphraseOf(given),
    ...(format !== undefined && { format })
  })
  try {
    return await readImage(image, path, settings)
  } finally {
    await image.close()
  }
}

/** A machine with one disk, probed. */
async function start(backing: VirtioBacking, serial: string, settings: Settings): Promise<Session> {
  const { legacy, queues, queueSize, metrics, trace } = settings
  const machine = new Machine({ ramSize: RAM_SIZE })
  const { device } = machine.attachDisk(backing, {
    serial, queues, queueSize, latency: metrics ? "all" : "off", ...(trace && { observer: tracer() })
  })
  const [pci] = findBlockDevices(machine)
  if (pci === undefined) throw new Error("the machine has no disk")
  const driver = await BlockDriver.open(pci, { queues, ...(legacy && { transport: "legacy" }) })
  return { driver, device, description: describe(driver, await driver.getId()), settings }
}

/** Moves `bytes` bytes in stretches, for the queues in turn. Returns the duration in seconds. */
async function inStretches(
  session: Session, bytes: number, move: (offset: number, length: number, queue: number) => Promise<void>,
): Promise<number> {
  const started = process.hrtime.bigint()
  for (let offset = 0, count = 0; offset < bytes; offset += STRETCH, count++) {
    if (session.signal !== undefined) await turn(session.signal)
    await move(offset, Math.min(STRETCH, bytes - offset), count % session.driver.queueCount)
  }
  return Number(process.hrtime.bigint() - started) / 1e9
}

/** Reads the first `bytes` bytes of the disk. Returns their SHA-256 and the duration in seconds. */
async function sumUp(session: Session, bytes: number): Promise<{ sha256: string; seconds: number }> {
  const hash = createHash("sha256")
  // A bar would be mixed with the lines of a trace.
  const progress = new Progress({ total: bytes, quiet: session.settings.trace })
  const take = (data: Uint8Array, sector: number): void => {
    hash.update(data)
    progress.show(sector * SECTOR + data.length)
  }
  try {
    const seconds = await inStretches(
      session,
      bytes,
      (offset, length, queue) => session.driver.readStream(offset / SECTOR, length / SECTOR, take, { queue }),
    )
    return { sha256: hash.digest("hex"), seconds }
  } finally {
    progress.clear()
  }
}

/** Without an image: writes, flushes, reads back and compares. */
async function tryDevice(settings: Settings): Promise<number> {
  return await stoppable("the temporary disk is removed", async (signal) => {
    const folder = makeTemporaryFolder()
    try {
      const path = join(folder, "disk.raw")
      writeFileSync(path, "")
      truncateSync(path, DEMO_SIZE)
      const backing = openImage(path, { format: "raw" })
      const session = { ...(await start(backing, "vioblk-demo", settings)), signal }
      const isEqual = await writeAndCompare(session)
      await session.driver.close()
      backing.close()
      return isEqual ? 0 : 1
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
}

/** @throws BackingError */
function makeTemporaryFolder(): string {
  const parent = tmpdir()
  try {
    return mkdtempSync(join(parent, "vioblk-"))
  } catch (error) {
    throw hostError(error, "create a temporary folder there", parent)
  }
}

/** Fills the disk, flushes it and reads it back. Returns whether the data are equal. */
async function writeAndCompare(session: Session): Promise<boolean> {
  const { driver } = session
  const hash = createHash("sha256")
  const pattern = new Uint8Array(STRETCH)
  const writeSeconds = await inStretches(session, DEMO_SIZE, async (offset, length, queue) => {
    fillPattern(pattern, offset)
    hash.update(pattern)
    await driver.write(offset / SECTOR, pattern.subarray(0, length), { queue })
  })
  const flushStarted = process.hrtime.bigint()
  await driver.flush()
  const flushSeconds = Number(process.hrtime.bigint() - flushStarted) / 1e9
  const read = { bytes: DEMO_SIZE, ...(await sumUp(session, DEMO_SIZE)) }
  const written = { bytes: DEMO_SIZE, seconds: writeSeconds, sha256: hash.digest("hex") }
  const equal = written.sha256 === read.sha256
  report(session, { written, flush: { seconds: flushSeconds }, read, equal }, [
    `wrote     ${formatThroughput(DEMO_SIZE, writeSeconds)}`,
    `flushed   in ${flushSeconds.toFixed(3)} s`,
    `read      ${formatThroughput(DEMO_SIZE, read.seconds)}`,
    equal
      ? `verified  the data read equals the data written (SHA-256 ${written.sha256})`
      : `FAILED    wrote SHA-256 ${written.sha256}, read ${read.sha256}`,
  ])
  return equal
}

/** With an image: reads all of it, and describes it. */
async function readImage(backing: VirtioBacking, path: string, settings: Settings): Promise<number> {
  const session = await start(backing, "vioblk", settings)
  try {
    return await readAndReport(session, backing, path)
  } catch (error) {
    throw error instanceof BlockRequestError ? reasonOf(error, session.device.lastError) : error
  }
}

/** The device's reason for a failed request, of which the guest only saw a status. */
function reasonOf(error: BlockRequestError, reason: unknown): Error {
  if (!(reason instanceof BackingError)) return error
  const remedy = reason.code === "corrupt" ? '; "vioblk check" lists all damage' : ""
  return new BackingError(reason.code, `${error.request} at sector ${error.sector} failed: ${reason.message}${remedy}`, { cause: reason })
}

async function readAndReport(session: Session, backing: VirtioBacking, path: string): Promise<number> {
  const { driver, description } = session
  const { size } = description
  const { sha256, seconds } = await sumUp(session, size)
  const tail = backing.size - size
  const table = parsePartitionTable(await driver.read(0, Math.min(PARTITION_TABLE_SECTORS, description.capacity)))
  const rewritten = backing.readOnly ? undefined : await rewrite(driver, Math.min(REWRITE, size))
  report(session, { image: path, read: { bytes: size, seconds, sha256 }, tail, partitions: table, rewritten }, [
    `image     ${path}`,
    `read      ${formatThroughput(size, seconds)}`,
    `SHA-256   ${sha256}`,
    ...(tail > 0 ? [`note      the last ${tail} bytes of the image do not fill a sector; a guest cannot reach them`] : []),
    ...(table === undefined ? [] : partitionLines(table)),
    ...(rewritten === undefined ? [] : [rewriteLine(rewritten)]),
  ])
  await driver.close()
  return rewritten?.equal === false ? 1 : 0
}

interface Rewritten {
  readonly bytes: number
  readonly equal: boolean
}

function rewriteLine({ bytes, equal }: Rewritten): string {
  return `rewrote   the first ${formatBytes(bytes)} unchanged, flushed, read back: ${equal ? "equal" : "DIFFERENT"}`
}

/** Rewrites the start of the disk unchanged, so that an interruption does no harm. */
async function rewrite(driver: BlockDriver, bytes: number): Promise<Rewritten> {
  const before = await driver.read(0, bytes / SECTOR)
  await driver.write(0, before)
  await driver.flush()
  const after = await driver.read(0, bytes / SECTOR)
  return { bytes, equal: Buffer.compare(before, after) === 0 }
}

/** Bytes that depend on their place: each 32-bit word is its offset, mixed. */
function fillPattern(target: Uint8Array, offset: number): void {
  const words = new Uint32Array(target.buffer, target.byteOffset, target.length / 4)
  for (let index = 0; index < words.length; index++) words[index] = Math.imul(offset / 4 + index + 1, 0x9e37_79b1)
}

function partitionLines({ kind, partitions }: PartitionTable): string[] {
  const lines = partitions.map(({ number, start, sectors, type, name, bootable }) => {
    const extra = [...(name ? [`"${name}"`] : []), ...(bootable ? ["bootable"] : [])]
    const place = `sectors ${start} to ${start + sectors - 1}, ${formatBytes(sectors * SECTOR)}`
    return `  ${String(number).padStart(2)}      ${[place, `type ${type}`, ...extra].join(", ")}`
  })
  return [`table     ${kind.toUpperCase()}, ${partitions.length} partition${partitions.length === 1 ? "" : "s"}`, ...lines]
}

/** Prints the disk and the results, as JSON or as lines. */
function report(session: Session, values: Readonly<Record<string, unknown>>, lines: readonly string[]): void {
  const { description, device, settings } = session
  if (settings.json) printJson({ ...description, ...values, statistics: device.statistics })
  else if (settings.metrics) printHelp(prometheusText({ [description.serial]: device }).trimEnd())
  else for (const line of [...descriptionLines(description), ...lines]) print(line)
}
