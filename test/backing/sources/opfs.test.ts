/** Files in a browser's origin private file system, over a fake of it: the real one is used by test/browser. */
import { readFileSync } from "node:fs"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { BackingError, type BackingErrorCode } from "../../../src/backing/backing.ts"
import { checkImageFile, type ImageFile } from "../../../src/backing/image-file.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { openQcow2Image } from "../../../src/backing/qcow2/open.ts"
import { opfsFile } from "../../../src/backing/sources/opfs-file.ts"
import { opfsSyncFile } from "../../../src/backing/sources/opfs-sync-file.ts"
import { makeWorkerSource, WORKER_SOURCE } from "../../browser/worker-source.ts"
import { exception, FakeDirectory, FakeFile, fakeNavigator, FakeWorker } from "./fake-opfs.ts"

let root: FakeDirectory
let worker: FakeWorker

beforeEach(() => {
  root = new FakeDirectory()
  worker = new FakeWorker(root)
  vi.stubGlobal("navigator", fakeNavigator(root))
})
afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
})

/** Both kinds of file as one: what a synchronous one does is awaited as well. */
type AnyFile = ImageFile | AsyncImageFile
type Options = { readonly create?: boolean; readonly readOnly?: boolean }

const KINDS: readonly (readonly [string, (path: string, options?: Options) => Promise<AnyFile>])[] = [
  ["opfsSyncFile", opfsSyncFile],
  ["opfsFile", (path, options) => opfsFile(path, { worker, ...options })],
]

async function codeOf(work: () => unknown): Promise<BackingErrorCode> {
  try {
    await work()
  } catch (error) {
    if (error instanceof BackingError) return error.code
    throw error
  }
  throw new Error("no error")
}

const counting = (length: number): Uint8Array<ArrayBuffer> => Uint8Array.from({ length }, (_, index) => index % 251)

it("the text of the worker is what opfs-service.ts compiles to", () => {
  expect(readFileSync(WORKER_SOURCE, "utf8"), "run npx tsx test/browser/worker-source.ts").toBe(makeWorkerSource())
})

describe.each(KINDS)("%s", (_name, open) => {
  it("makes folders and the file if it may, and keeps an existing file", async () => {
    const file = await open("vm/disks/a.img", { create: true })
    await file.write?.(counting(1000), 500)
    await file.close()
    const again = await open("vm/disks/a.img", { create: true })
    expect(await again.size()).toBe(1500)
    const back = new Uint8Array(2000).fill(9)
    expect(await again.read(back, 400)).toBe(1100)
    expect(back.subarray(0, 1100)).toEqual(new Uint8Array([...new Uint8Array(100), ...counting(1000)]))
    expect(again).toMatchObject({ path: "vm/disks/a.img", readOnly: false, lock: "exclusive" })
  })

  it("continues when the browser reads or writes fewer bytes than it was asked for", async () => {
    root.file("a.img").atOnce = 7
    const file = await open("a.img")
    await file.write?.(counting(100), 3)
    const back = new Uint8Array(100)
    expect(await file.read(back, 3)).toBe(100)
    expect(back).toEqual(counting(100))
    expect(await file.read(new Uint8Array(50), 100)).toBe(3)
    expect(await file.read(new Uint8Array(50), 1000)).toBe(0)
  })

  it("sets the size, and flushes", async () => {
    const file = await open("a.img", { create: true })
    await file.write?.(counting(10), 0)
    await file.truncate?.(4)
    await file.truncate?.(6)
    await file.sync?.()
    expect(root.file("a.img")).toMatchObject({ bytes: Uint8Array.of(0, 1, 2, 3, 0, 0), flushes: 1 })
  })

  it.each<[string, () => void, string, BackingErrorCode]>([
    ["that is missing", () => undefined, "a.img", "not-found"],
    ["in a folder that is missing", () => undefined, "vm/a.img", "not-found"],
    ["that somebody else has open", () => void (root.file("a.img").isOpen = true), "a.img", "busy"],
    ["that is a folder", () => void root.entries.set("a.img", new FakeDirectory()), "a.img", "invalid-format"],
    ["with an invalid name", () => undefined, "vm/..", "invalid-argument"],
    ["where there is no such file system", () => vi.stubGlobal("navigator", {}), "a.img", "unsupported"],
  ])("refuses a file %s", async (_what, prepare, path, code) => {
    prepare()
    if (code === "unsupported") worker = new FakeWorker(root, "globalThis.navigator.storage = undefined;" + sourceOfWorker())
    if (path === "vm/..") root.entries.set("vm", new FakeDirectory())
    await expect(open(path)).rejects.toMatchObject({ name: "BackingError", code, path })
  })

  it.each([
    "", "/a.img", "vm/", "vm//a.img", "vm/./a.img", "vm/disks/../a.img", "..",
  ])('refuses the path "%s" and makes no folder', async (path) => {
    await expect(open(path, { create: true })).rejects.toMatchObject({ code: "invalid-argument", path })
    expect(root.entries.size).toBe(0)
  })

  it("an exhausted quota is no-space, whether the browser says so or stores less", async () => {
    const disk = root.file("a.img")
    disk.quota = 100
    const file = await open("a.img")
    expect(await codeOf(() => file.write?.(new Uint8Array(101), 0))).toBe("no-space")
    expect(await codeOf(() => file.truncate?.(101))).toBe("no-space")
    disk.failure = exception("QuotaExceededError")
    expect(await codeOf(() => file.write?.(new Uint8Array(1), 0))).toBe("no-space")
  })

  it("after a failed flush every flush fails: what was written before it may be lost", async () => {
    const file = await open("a.img", { create: true })
    root.file("a.img").failure = exception("UnknownError")
    expect(await codeOf(() => file.sync?.())).toBe("io")
    root.file("a.img").failure = undefined
    expect(await codeOf(() => file.sync?.())).toBe("io")
    expect(root.file("a.img").flushes).toBe(0)
  })

  it("the message of an error gives the operation, the place and the reason", async () => {
    const file = await open("a.img", { create: true })
    root.file("a.img").failure = exception("UnknownError")
    await expect((async () => file.read(new Uint8Array(8), 64))()).rejects
      .toThrow("a.img: cannot read 8 bytes at byte 64: UnknownError of the fake browser")
    await expect((async () => file.size())()).rejects.toThrow("a.img: cannot ask for the size: UnknownError of the fake browser")
  })

  it("after close every call fails, a second close does nothing, and the file can be opened again", async () => {
    const file = await open("a.img", { create: true })
    await file.close()
    await file.close()
    expect(await codeOf(() => file.size())).toBe("closed")
    expect(await codeOf(() => file.read(new Uint8Array(1), 0))).toBe("closed")
    expect(await codeOf(() => file.write?.(new Uint8Array(1), 0))).toBe("closed")
    await (await open("a.img")).close()
  })

  it("wrong arguments are refused before anything is opened", async () => {
    await expect(open(7 as unknown as string)).rejects.toThrow(/path must be a string, not 7$/)
    await expect(open("a.img", { creat: true } as Options)).rejects.toThrow(/unknown option "creat"; did you mean "create"\?$/)
    expect(root.entries.size).toBe(0)
  })
})

const sourceOfWorker = (): string => /`([^`]*)`/.exec(readFileSync(WORKER_SOURCE, "utf8"))?.[1] ?? ""

describe("opfsSyncFile", () => {
  it("is an ImageFile on which a qcow2 image is made, written, checked and opened again", async () => {
    root.file("a.qcow2").atOnce = 1000
    const file = await opfsSyncFile("a.qcow2")
    checkImageFile("the test", file)
    createQcow2(file, { size: 1 << 20, clusterSize: 4096 })
    const image = openQcow2Image(file)
    image.pwritev([counting(700), counting(9000)], 12_345)
    image.close()
    const again = await opfsSyncFile("a.qcow2", { readOnly: true })
    expect(checkQcow2(again)).toMatchObject({ exitCode: 0, leaks: 0 })
    const back = [new Uint8Array(700), new Uint8Array(9000)]
    openQcow2Image(again).preadv(back, 12_345)
    expect(back).toEqual([counting(700), counting(9000)])
  })

  it("refuses changes when it is read-only", async () => {
    root.file("a.img").bytes = counting(10)
    const file = await opfsSyncFile("a.img", { readOnly: true })
    for (const change of [() => file.write(new Uint8Array(1), 0), () => file.truncate(3)]) expect(await codeOf(change)).toBe("read-only")
    expect(root.file("a.img").bytes).toEqual(counting(10))
  })

  it("refuses to open outside of workers, and says so", async () => {
    Object.defineProperty(root.file("a.img"), "createSyncAccessHandle", { value: undefined })
    await expect(opfsSyncFile("a.img")).rejects.toThrow(
      "a.img: cannot open: only a worker can open it for synchronous access; opfsFile works",
    )
  })
})

describe("opfsFile", () => {
  it("refuses changes when it is read-only", async () => {
    root.file("a.img").bytes = counting(10)
    const file = await opfsFile("a.img", { readOnly: true, worker })
    expect([file.readOnly, "write" in file, "truncate" in file, "sync" in file]).toEqual([true, false, false, false])
  })

  it("does calls that are under way at once in their order", async () => {
    const file = await opfsFile("a.img", { create: true, worker })
    const writes = [1, 2, 3].map((value) => file.write?.(new Uint8Array(4).fill(value), value * 2))
    const back = new Uint8Array(10)
    expect(await file.read(back, 0)).toBe(10)
    expect(back).toEqual(Uint8Array.of(0, 0, 1, 1, 2, 2, 3, 3, 3, 3))
    await Promise.all(writes)
  })

  it("leaves the caller's buffer intact, also in shared memory", async () => {
    const file = await opfsFile("a.img", { create: true, worker })
    const ram = new Uint8Array(new SharedArrayBuffer(64)).fill(5)
    await file.write?.(ram.subarray(8, 40), 0)
    await file.read(ram.subarray(0, 8), 0)
    expect([ram.length, root.file("a.img").bytes.length]).toEqual([64, 32])
  })

  it("shares a passed worker between files, and does not end it", async () => {
    const [a, b] = [await opfsFile("a.img", { create: true, worker }), await opfsFile("b.img", { create: true, worker })]
    await Promise.all([a.write?.(Uint8Array.of(1), 0), b.write?.(Uint8Array.of(2), 0)])
    await a.close()
    await b.write?.(Uint8Array.of(3), 1)
    expect([root.file("a.img").bytes, root.file("b.img").bytes]).toEqual([Uint8Array.of(1), Uint8Array.of(2, 3)])
    expect(worker.isTerminated).toBe(false)
  })

  it("starts its own worker if none is passed, and ends it with the file or when the file cannot be opened", async () => {
    const started = stubWorkers()
    const file = await opfsFile("a.img", { create: true })
    expect(started.map(({ isTerminated }) => isTerminated)).toEqual([false])
    await expect(opfsFile("missing.img")).rejects.toMatchObject({ code: "not-found" })
    await file.close()
    expect(started.map(({ isTerminated }) => isTerminated)).toEqual([true, true])
  })

  it("reports a policy that forbids the worker, and what to do about it", async () => {
    const remedy = /; allow "worker-src blob:" in the Content Security Policy, or pass a worker that runs vioblk\/opfs-worker$/
    vi.stubGlobal("Worker", class {
      constructor() {
        throw exception("SecurityError")
      }
    })
    await expect(opfsFile("a.img")).rejects.toThrow(remedy)
    vi.stubGlobal("Worker", SilentWorker)
    await expect(opfsFile("a.img", { create: true })).rejects.toThrow(remedy)
  })

  it("reports a passed worker that does not run", async () => {
    const message = "a.img: cannot open: the worker that was passed does not run vioblk/opfs-worker: the browser does not say why"
    await expect(opfsFile("a.img", { create: true, worker: new SilentWorker() })).rejects.toThrow(message)
  })

  it("fails calls under way and later ones with an io error when its worker fails, and can be closed", async () => {
    const file = await opfsFile("a.img", { create: true, worker })
    const reading = file.read(new Uint8Array(4), 0)
    worker.fail("out of memory")
    await expect(reading).rejects.toThrow("a.img: the worker that has the file open has failed: out of memory")
    expect(await codeOf(() => file.size())).toBe("io")
    await file.close()
  })
})

describe("opfsFile whose worker or buffer fails in the middle of a call", () => {
  it("a worker that is terminated ends its files: no call waits for ever, and they can be closed", async () => {
    const file = await opfsFile("a.img", { create: true, worker })
    const [writing, flushing] = [file.write?.(new Uint8Array(4), 0), file.sync?.()]
    worker.terminate()
    await expect(writing).rejects.toThrow("a.img: the worker that has the file open has failed: it has ended")
    expect(await codeOf(() => flushing)).toBe("io")
    expect(await codeOf(() => file.sync?.())).toBe("io")
    await file.close()
    expect(root.locks.count).toBe(0)
  })

  it("a file that is closed no longer waits for the end of a worker that goes on", async () => {
    const files = [await opfsFile("a.img", { create: true, worker }), await opfsFile("b.img", { create: true, worker })]
    expect(root.locks.count).toBe(3)
    for (const file of files) await file.close()
    expect(root.locks.count).toBe(1)
  })

  it("an opening fails after 30 s without an answer, and a worker that opens the file later closes it", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    let goOn = (): void => undefined
    const isBlocked = new Promise<void>((resolve) => (goOn = resolve))
    const open = root.getFileHandle.bind(root)
    root.getFileHandle = async (...args) => {
      await isBlocked
      return await open(...args)
    }
    const refused = expect(opfsFile("a.img", { create: true, worker })).rejects.toMatchObject({
      code: "unsupported",
      message: "a.img: cannot open: the worker that was passed does not run vioblk/opfs-worker: it has not answered for 30 s",
    })
    await vi.advanceTimersByTimeAsync(29_999)
    expect(worker.listenerCount).toBe(1)
    await vi.advanceTimersByTimeAsync(1)
    await refused
    vi.useRealTimers()
    const opened = vi.spyOn(root.file("a.img"), "createSyncAccessHandle")
    goOn()
    await vi.waitFor(() => expect([opened.mock.calls.length, root.file("a.img").isOpen]).toEqual([1, false]))
    expect([worker.listenerCount, root.locks.count]).toEqual([0, 1])
  })

  it.each([
    "undefined", "{ request: () => Promise.reject(new Error()) }",
  ])("where the browser's locks are %s, files work", async (locks) => {
    const source = `globalThis.navigator.locks = ${locks};` + sourceOfWorker()
    const file = await opfsFile("a.img", { create: true, worker: new FakeWorker(root, source) })
    await file.write?.(counting(8), 0)
    await file.close()
    expect(root.file("a.img").bytes).toEqual(counting(8))
  })

  it("a worker that is terminated in the middle of close fails the close, and what was under way, by name", async () => {
    const file = await opfsFile("a.img", { create: true, worker })
    const [writing, closing] = [file.write?.(new Uint8Array(4), 0), file.close()]
    worker.terminate()
    await expect(writing).rejects.toThrow("the worker that has the file open has failed: it has ended")
    await expect(closing).rejects.toThrow("the worker that has the file open has failed: it has ended")
  })

  it("a worker that goes on after an exception closes the file, so that it can be opened again", async () => {
    const file = await opfsFile("a.img", { create: true, worker })
    worker.fail("not caught")
    await vi.waitFor(() => expect(root.file("a.img").isOpen).toBe(false))
    await file.close()
    await (await opfsFile("a.img", { worker })).close()
  })

  it("a flush fails if one that was under way before it fails: the browser tells of lost data only once", async () => {
    const disk = root.file("a.img")
    const file = await opfsFile("a.img", { worker })
    disk.failures.push(exception("UnknownError"))
    const flushes = [file.sync?.(), file.sync?.()].map((flush) => codeOf(() => flush))
    expect([await Promise.all(flushes), disk.flushes]).toEqual([["io", "io"], 1])
  })

  it("a write whose buffer is transferred before all of it is stored fails", async () => {
    const file = await opfsFile("a.img", { create: true, worker })
    const buffer = new Uint8Array(5 << 20)
    const writing = file.write?.(buffer, 0)
    structuredClone(buffer, { transfer: [buffer.buffer] })
    await expect(writing).rejects.toThrow(TypeError)
    expect(await file.size()).toBe(4 << 20)
  })

  it.each(["NaN", "-1", "0.5", "9", "2 ** 53", "'8'", "null"])("an answer of %s bytes to a call for 8 is an error", async (count) => {
    const source = sourceOfWorker().replaceAll("id, count", `id, count: ${count}`)
    const file = await opfsFile("a.img", { create: true, worker: new FakeWorker(root, source) })
    expect(await codeOf(() => file.write?.(new Uint8Array(8), 0))).toBe("io")
    expect(await codeOf(() => file.read(new Uint8Array(8), 0))).toBe("io")
  })

  it("answers that come twice, or to no request, change nothing", async () => {
    const often = "for (const other of [id, id, 99, -1]) port.postMessage({ id: other, count });"
    const source = sourceOfWorker().replace("port.postMessage({ id, count });", often)
    const file = await opfsFile("a.img", { create: true, worker: new FakeWorker(root, source) })
    await Promise.all([file.write?.(counting(8), 0), file.sync?.(), file.truncate?.(16)])
    expect([await file.size(), root.file("a.img").bytes.subarray(0, 8)]).toEqual([16, counting(8)])
    await file.close()
  })
})

/** A worker that the browser does not load. */
class SilentWorker extends FakeWorker {
  constructor() {
    super(root)
  }

  override postMessage(): void {
    queueMicrotask(() => this.fail())
  }
}

/** Puts a `Worker` into this scope, as a page has it. Returns those that are started. */
function stubWorkers(): FakeWorker[] {
  const started: FakeWorker[] = []
  vi.stubGlobal("Worker", class extends FakeWorker {
    constructor() {
      super(root)
      started.push(this)
    }
  })
  return started
}

it("the fake of these tests refuses a second opening of a file", async () => {
  const file = new FakeFile()
  await file.createSyncAccessHandle({ mode: "readwrite" })
  await expect(file.createSyncAccessHandle({ mode: "readwrite" })).rejects.toThrow("NoModificationAllowedError")
})
