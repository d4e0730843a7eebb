/** Our NBD client against the servers of others: nbdkit with its filters, qemu-nbd and nbd-server. Bytes are compared by QEMU's tools. */
import { readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, onTestFinished } from "vitest"
import { BackingError, type VirtioBacking } from "../../src/backing/backing.ts"
import { createDisk, createQcow2, HostFile, nbdDisk, NbdDisk, nbdFile, type NbdOptions, openDisk } from "../../src/index.ts"
import { FlatModel } from "../support/flat-model.ts"
import { qemuImg, qemuIo } from "../support/qemu.ts"
import { describeOperation, randomOperation } from "../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { itWithNbdServers, nbdkit, nbdkitWithTls, nbdServer, qemuNbd } from "./nbd-tools.ts"

const seed = seedFromEnvironment(41)
const MiB = 1024 * 1024

async function open(uri: string, options: NbdOptions = {}): Promise<NbdDisk> {
  const disk = await nbdDisk(uri, options)
  onTestFinished(() => disk.close().catch(() => undefined))
  return disk
}

function emptyFile(size: number): string {
  const path = join(temporaryDirectory(), "disk.raw")
  writeFileSync(path, "")
  truncateSync(path, size)
  return path
}

/** What an export holds, as QEMU reads it. */
function readByQemu(uri: string): Uint8Array {
  const path = join(temporaryDirectory(), "copy.raw")
  qemuImg("convert", "-f", "raw", "-O", "raw", uri, path)
  return readFileSync(path)
}

/** Random operations, several at a time in parts of the disk of their own. Discarded bytes are written again before anybody reads them. */
async function work(
  disk: VirtioBacking,
  model: FlatModel,
  options: { seed: number; unit?: number; steps?: number },
): Promise<void> {
  const workers = 4
  const share = Math.floor(model.size / workers / 4096) * 4096
  const one = async (worker: number): Promise<void> => {
    const rng = new Rng(options.seed + worker)
    const base = worker * share
    for (let step = 0; step < (options.steps ?? 60); step++) {
      const limits = { size: share, longest: 200_000, ...(options.unit === undefined ? {} : { unit: options.unit }) }
      const operation = randomOperation(rng, limits)
      try {
        await apply(disk, model, operation, base)
      } catch (error) {
        if (error instanceof Error) error.message += ` (worker ${worker}, step ${step}: ${describeOperation(operation)})`
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: workers }, (_, worker) => one(worker)))
}

async function apply(disk: VirtioBacking, model: FlatModel, operation: ReturnType<typeof randomOperation>, base: number): Promise<void> {
  switch (operation.kind) {
    case "write":
      await disk.pwrite(operation.data, base + operation.offset)
      return model.write(operation.data, base + operation.offset)
    case "read": {
      const data = new Uint8Array(operation.length).fill(0xee)
      await disk.pread(data, base + operation.offset)
      return expect(model.firstDifference(data, base + operation.offset)).toBe(-1)
    }
    case "writeZeroes":
      await disk.writeZeroes?.(base + operation.offset, operation.length, operation.mayUnmap)
      if (disk.writeZeroes !== undefined) model.zero(base + operation.offset, operation.length)
      return
    case "discard": {
      await disk.discard?.(base + operation.offset, operation.length)
      const data = new Uint8Array(operation.length).fill(0x55)
      await disk.pwrite(data, base + operation.offset)
      return model.write(data, base + operation.offset)
    }
    default:
      await disk.flush?.()
  }
}

async function expectAll(disk: VirtioBacking, model: FlatModel): Promise<void> {
  const content = new Uint8Array(disk.size)
  await disk.pread(content, 0)
  expect(model.firstDifference(content, 0)).toBe(-1)
}

/** New images in exports, which have a fixed size and hold something. */
describe("createDisk over nbdFile", () => {
  const size = 3 * MiB + 1000
  const servers: readonly (readonly [string, (path: string) => { readonly uri: string; kill(): void }])[] = [
    ["qemu-nbd", (path) => qemuNbd(path, "raw")], ["nbdkit", (path) => nbdkit("file", path)],
    ["nbdkit without zeroes", (path) => nbdkit("--filter=nozero", "file", path)],
  ]

  itWithNbdServers.each(servers)("%s: a new image overwrites old content, and still works when the export is full", async (_, serve) => {
    const path = emptyFile(size)
    writeFileSync(path, new Rng(seed).bytes(size))
    const server = serve(path)
    const file = nbdFile(server.uri)
    await expect(createDisk(file, { size: 8 * MiB })).rejects.toMatchObject({ code: "exists" })
    expect(await createDisk(file, { size: 8 * MiB, overwrite: true })).toBe(true)
    const disk = await openDisk(file, { format: "qcow2" })
    const model = new FlatModel(8 * MiB)
    const data = new Rng(seed + 1).bytes(MiB)
    const outcomes: string[] = []
    for (let at = 0; at < 8 * MiB; at += 128 * 1024) {
      const piece = data.subarray(0, 128 * 1024)
      try {
        await disk.pwrite(piece, at)
        outcomes.push("done")
      } catch (error) {
        outcomes.push(error instanceof BackingError ? error.code : String(error))
        await disk.pread(piece, at)
      }
      model.write(piece, at)
    }
    expect(outcomes.indexOf("no-space")).toBeGreaterThan(15)
    expect(new Set(outcomes)).toEqual(new Set(["done", "no-space"]))
    await disk.pwrite(data, 0)
    model.write(data, 0)
    await disk.flush?.()
    await disk.close()
    server.kill()
    qemuImg("check", "-f", "qcow2", path)
    const raw = join(temporaryDirectory(), "copy.raw")
    qemuImg("convert", "-f", "qcow2", "-O", "raw", path, raw)
    expect(model.firstDifference(readFileSync(raw), 0)).toBe(-1)
  })
})

describe("nbdkit", () => {
  itWithNbdServers(`has what random work wrote (SEED=${seed})`, async () => {
    const server = nbdkit("memory", `${4 * MiB}`)
    const model = new FlatModel(4 * MiB)
    const disk = await open(server.uri)
    expect([disk.size, disk.readOnly, typeof disk.flush, typeof disk.discard]).toEqual([4 * MiB, false, "function", "function"])
    await work(disk, model, { seed })
    await expectAll(disk, model)
    await disk.close()
    expect(model.firstDifference(readByQemu(server.uri), 0)).toBe(-1)
  })

  itWithNbdServers.each([
    ["simple replies only", ["--no-sr", "memory", `${MiB}`], {}],
    ["answers that are late and out of order", ["--filter=delay", "memory", `${MiB}`, "rdelay=2ms", "wdelay=1ms"], {}],
    ["a bounded rate", ["--filter=rate", "memory", `${MiB}`, "rate=200M"], {}],
    ["several connections", ["memory", `${MiB}`], { connections: 4, maxInFlight: 4 }],
    ["no zeroes, no map, no FUA", ["--filter=nozero", "--filter=noextents", "--filter=fua", "memory", `${MiB}`], {}],
    ["an overlay over nothing", ["--filter=cow", "memory", `${MiB}`], {}],
    ["an odd size", ["memory", "1000001"], {}],
    ["short requests only", ["--filter=blocksize-policy", "memory", `${MiB}`, "blocksize-minimum=1", "blocksize-preferred=4096",
      "blocksize-maximum=8192", "blocksize-error-policy=error"], {}],
    ["blocks of 512 only", ["--filter=blocksize-policy", "memory", `${MiB}`, "blocksize-minimum=512", "blocksize-preferred=4096",
      "blocksize-maximum=65536", "blocksize-error-policy=error"], {}],
    ["blocks of 4096 only", ["--filter=blocksize-policy", "memory", `${MiB}`, "blocksize-minimum=4096", "blocksize-preferred=4096",
      "blocksize-maximum=65536", "blocksize-error-policy=error"], {}],
  ] as const)("%s", async (_, words, options) => {
    const disk = await open(nbdkit(...words).uri, options)
    const model = new FlatModel(disk.size)
    await work(disk, model, { seed, steps: 25 })
    await expectAll(disk, model)
  })

  itWithNbdServers("errors have their code, and a server may be read-only", async () => {
    const full = await open(nbdkit("--filter=error", "memory", `${MiB}`, "error-pwrite=ENOSPC", "error-pwrite-rate=100%").uri)
    await expect(full.pwrite(new Uint8Array(512), 0)).rejects.toMatchObject({ code: "no-space" })
    const shaky = await open(nbdkit("--filter=error", "memory", `${MiB}`, "error=EIO", "error-rate=30%").uri)
    const outcomes = await Promise.allSettled(
      Array.from({ length: 100 }, (_, index) => shaky.pwrite(new Uint8Array(512).fill(7), index * 512)),
    )
    const failed = outcomes.filter(({ status }) => status === "rejected").length
    expect(failed).toBeGreaterThan(0)
    expect(failed).toBeLessThan(100)
    const protectedDisk = await open(nbdkit("-r", "memory", `${MiB}`).uri)
    expect(protectedDisk.readOnly).toBe(true)
  })

  itWithNbdServers("a missing export and a missing server give errors that say so", async () => {
    const server = nbdkit("--filter=exportname", "memory", "1M", "exportname-strict=true", "exportname=a")
    await expect(open(server.named("b"))).rejects.toMatchObject({ code: "not-found" })
    await expect(open("nbd+unix:///?socket=/nowhere/at/all")).rejects.toThrow(/there is no such socket/)
    await expect(open("nbd://localhost:1/")).rejects.toThrow(/nobody listens there/)
  })

  itWithNbdServers("TLS demands a certificate that a known authority has signed for the right name", async () => {
    const server = nbdkitWithTls("disk.example", "memory", `${MiB}`)
    const uri = `${server.uri}&tls-hostname=disk.example`
    const disk = await open(uri, { ca: server.ca })
    const model = new FlatModel(disk.size)
    await work(disk, model, { seed, steps: 15 })
    await expectAll(disk, model)
    await expect(open(uri)).rejects.toThrow(/cannot begin TLS/)
    await expect(open(`${server.uri}&tls-hostname=other.example`, { ca: server.ca })).rejects.toThrow(/cannot begin TLS/)
    await expect(open(server.uri.replace("nbds", "nbd"))).rejects.toThrow(/without TLS; use nbds/)
    const plain = nbdkit("memory", "1M")
    await expect(open(plain.uri.replace("nbd", "nbds"))).rejects.toThrow(/does not offer TLS/)
  })
})

describe("qemu-nbd", () => {
  itWithNbdServers("both sides see the same bytes of a raw export", async () => {
    const path = emptyFile(3 * MiB + 512)
    const server = qemuNbd(path, "raw", "--discard=unmap")
    const disk = await open(server.uri)
    const model = new FlatModel(disk.size)
    await work(disk, model, { seed })
    await expectAll(disk, model)
    await disk.close()
    expect(model.firstDifference(readFileSync(path), 0)).toBe(-1)
  })

  itWithNbdServers("the status of blocks agrees with qemu-img map", async () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    qemuImg("create", "-q", "-f", "qcow2", path, "64M")
    qemuIo(path, ["write -P 1 0 1M", "write -P 2 5M 64k", "write -z 7M 2M", "write -P 3 63M 1M", "discard 128k 64k"], "-f", "qcow2")
    const disk = await open(qemuNbd(path, "qcow2").uri)
    const ours: { start: number; length: number; zero: boolean; data: boolean }[] = []
    for (let at = 0; at < disk.size;) {
      for (const { offset, length, isHole, isZero } of await disk.blockStatus(at, disk.size - at)) {
        expect(offset).toBe(at)
        at += length
        const last = ours.at(-1)
        if (last !== undefined && last.zero === isZero && last.data === !isHole) last.length += length
        else ours.push({ start: offset, length, zero: isZero, data: !isHole })
      }
    }
    const theirs: (typeof ours)[number][] = []
    for (const { start, length, zero, data } of JSON.parse(qemuImg("map", "-U", "-f", "qcow2", "--output=json", path))) {
      const last = theirs.at(-1)
      if (last !== undefined && last.zero === zero && last.data === data) last.length += length
      else theirs.push({ start, length, zero, data })
    }
    expect(ours.length).toBeGreaterThan(4)
    expect(ours).toEqual(theirs)
  })

  itWithNbdServers("no acknowledged write is lost when the server is killed again and again", async () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    qemuImg("create", "-q", "-f", "qcow2", path, `${4 * MiB}`)
    const server = qemuNbd(path, "qcow2")
    const disk = await open(server.uri)
    const model = new FlatModel(disk.size)
    const socket = server.uri.slice(server.uri.indexOf("=") + 1)
    let current = server
    for (let round = 0; round < 5; round++) {
      const working = work(disk, model, { seed: seed + round * 10, steps: 40 })
      // Some of it is under way when the server goes, and some of it has been answered.
      await disk.pread(new Uint8Array(512), 0)
      current.kill()
      current = qemuNbd(path, "qcow2", "--socket", socket)
      await working
    }
    await expectAll(disk, model)
    await disk.close()
    current.kill()
    const copy = join(temporaryDirectory(), "copy.raw")
    qemuImg("convert", "-f", "qcow2", "-O", "raw", path, copy)
    expect(model.firstDifference(readFileSync(copy), 0)).toBe(-1)
  })
})

describe("nbd-server", () => {
  itWithNbdServers("both sides see the same bytes", async () => {
    const path = emptyFile(2 * MiB)
    const disk = await open((await nbdServer(path, "flush = true", "fua = true", "trim = true")).uri)
    const model = new FlatModel(disk.size)
    await work(disk, model, { seed, steps: 40 })
    await expectAll(disk, model)
    await disk.close()
    expect(model.firstDifference(readFileSync(path), 0)).toBe(-1)
  })

  itWithNbdServers("a read-only export is read, and an unknown name is refused", async () => {
    const path = emptyFile(MiB)
    const server = await nbdServer(path, "readonly = true")
    const disk = await open(server.uri)
    expect(disk.readOnly).toBe(true)
    await disk.pread(new Uint8Array(4096), 0)
    await expect(open(server.named("other"))).rejects.toMatchObject({ code: expect.stringMatching(/not-found|io/) })
  })
})

describe("an image behind a server", () => {
  itWithNbdServers("QEMU checks and reads a qcow2 image that was written over NBD in a raw export", async () => {
    const path = emptyFile(8 * MiB)
    const image = new HostFile(path, { create: false })
    createQcow2(image, { size: 4 * MiB })
    image.close()
    truncateSync(path, 8 * MiB)
    const server = qemuNbd(path, "raw")
    const disk = await openDisk(nbdFile(server.uri), { format: "qcow2" })
    const model = new FlatModel(disk.size)
    await work(disk, model, { seed, unit: 512, steps: 30 })
    await disk.flush?.()
    await expectAll(disk, model)
    await disk.close()
    server.kill()
    qemuImg("check", "-f", "qcow2", path)
    const copy = join(temporaryDirectory(), "copy.raw")
    qemuImg("convert", "-f", "qcow2", "-O", "raw", path, copy)
    expect(model.firstDifference(readFileSync(copy), 0)).toBe(-1)
  })

  itWithNbdServers("an export that is stated as raw is used without a cache", async () => {
    const disk = await openDisk(nbdFile(nbdkit("memory", "1M").uri), { format: "raw" })
    expect(disk).toBeInstanceOf(NbdDisk)
    const data = new Rng(seed).bytes(4096)
    await disk.pwrite(data, 512)
    const back = new Uint8Array(4096)
    await disk.pread(back, 512)
    expect(Buffer.compare(back, data)).toBe(0)
    await disk.close()
  })
})
