/** What tests do in a page with the real origin private file system. */
import { BackingError, opfsFile, type OpfsFileOptions } from "vioblk"
import type { WorkerAnswer, WorkerTask } from "./opfs-worker.ts"

const MIB = 1 << 20

/** Bytes that depend on their place. */
export function pattern(length: number, seed: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + (index >>> 8) * 7 + seed) & 0xff)
}

function same(actual: unknown, expected: unknown, what: string): void {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) {
    throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`)
  }
}

function sameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  same(actual.length, expected.length, `${what}: length`)
  const at = actual.findIndex((byte, index) => byte !== expected[index])
  if (at >= 0) throw new Error(`${what}: byte ${at} is ${actual[at]}, should be ${expected[at]}`)
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
  } catch (error) {
    if (error instanceof BackingError) return error.code
    throw error
  }
  return "no error"
}

/** Writes, cuts, reads and flushes a file from the page's own thread. */
export async function writeAndRead(): Promise<string> {
  const file = await opfsFile("tests/a.img", { create: true })
  const bytes = pattern(9 * MIB + 123, 1)
  await file.write?.(bytes, 1000)
  // Shared memory, which an emulator may have. Pages that are not isolated have no SharedArrayBuffer.
  const memory = new WebAssembly.Memory({ initial: 160, maximum: 160, shared: true })
  const shared = new Uint8Array(memory.buffer, 0, bytes.length)
  same(await file.read(shared, 1000), bytes.length, "bytes read")
  sameBytes(shared, bytes, "what was read")
  same(await file.read(new Uint8Array(200), bytes.length + 900), 100, "bytes read at the end")
  await file.truncate?.(5000)
  await file.truncate?.(6000)
  await file.sync?.()
  same(await file.size(), 6000, "size")
  const end = new Uint8Array(2000).fill(9)
  same(await file.read(end, 4500), 1500, "bytes read at the new end")
  sameBytes(end.subarray(0, 1500), Uint8Array.from([...bytes.subarray(3500, 4000), ...new Uint8Array(1000)]), "after the cut")
  same(await codeOf(opfsFile("tests/a.img")), "busy", "a second opening")
  await file.close()
  same(await codeOf(file.size()), "closed", "after close")
  const again = await opfsFile("tests/a.img", { readOnly: true })
  const reader = await opfsFile("tests/a.img", { readOnly: true })
  same([await again.size(), await reader.size(), "write" in again], [6000, 6000, false], "two read-only openings")
  await again.close()
  await reader.close()
  return "ok"
}

/** Opens a file and leaves it open, with a write under way, as a page does that is closed. Returns the file's size before. */
export async function leaveOpen(): Promise<number> {
  const file = await opfsFile("tests/left.img", { create: true })
  const size = await file.size()
  await file.write?.(pattern(MIB, 3), 0)
  void file.write?.(pattern(8 * MIB, 4), MIB)
  return size
}

/** What a page is told when it asks for what cannot be. */
export async function refusals(): Promise<readonly string[]> {
  return [
    await codeOf(opfsFile("tests/missing.img")),
    await codeOf(opfsFile("missing/a.img")),
    await codeOf(opfsFile("tests/..")),
    await codeOf(opfsFile("tests", { create: true })),
  ]
}

/** The same on a worker's thread, with files that answer at once. */
export function inWorker(task: WorkerTask): Promise<WorkerAnswer> {
  const worker = new Worker("/js/test/browser/scripts/opfs-worker.js", { type: "module" })
  return new Promise<WorkerAnswer>((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<WorkerAnswer>) => resolve(data)
    worker.onerror = ({ message }) => reject(new Error(message))
    worker.postMessage(task)
  }).finally(() => worker.terminate())
}

/** What calls of a file come to whose worker is terminated; those under way settle, one way or the other. */
export async function workerEnds(): Promise<readonly string[]> {
  const worker = new Worker("/js/src/backing/sources/opfs-worker.js", { type: "module" })
  const file = await opfsFile("tests/ended.img", { create: true, worker })
  const calls = [file.write?.(pattern(8 * MIB, 6), 0), file.sync?.()].map((call) => codeOf(Promise.resolve(call)))
  worker.terminate()
  await Promise.all(calls)
  return [await codeOf(file.size()), await codeOf(file.close())]
}

/** Opens a file through the module that a page with a strict policy serves; without it the message says what to do. */
export async function underStrictPolicy(): Promise<readonly string[]> {
  let message = ""
  try {
    await opfsFile("tests/strict.img", { create: true })
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    message = error.message
  }
  const worker = new Worker("/js/src/backing/sources/opfs-worker.js", { type: "module" })
  const options: OpfsFileOptions = { create: true, worker }
  const file = await opfsFile("tests/strict.img", options)
  await file.write?.(pattern(1000, 2), 0)
  const size = await file.size()
  await file.close()
  worker.terminate()
  return [message, String(size)]
}
