/** An export as a file that answers later, and an image in it. */
import { describe, expect, it, onTestFinished } from "vitest"
import { nbdSettings, type NbdOptions } from "../../../src/backing/nbd/client/options.ts"
import { parseNbdUri } from "../../../src/backing/nbd/client/uri.ts"
import { NbdFile } from "../../../src/backing/nbd/nbd-file.ts"
import { createQcow2, MemoryFile, nbdDisk, NbdDisk, nbdFile, openDisk } from "../../../src/index.ts"
import { Rng } from "../../support/rng.ts"
import { ALL_FLAGS, type FakeOptions, FakeServer, FakeTimer } from "./fake-server.ts"

function newFile(options: FakeOptions, given: NbdOptions = {}): { server: FakeServer; file: NbdFile } {
  const server = new FakeServer(options)
  const host = { dial: server.dial, timer: new FakeTimer() }
  const file = new NbdFile(parseNbdUri("nbd://localhost/image"), nbdSettings("test", given), host)
  onTestFinished(() => file.close())
  return { server, file }
}

describe("nbdFile", () => {
  it("connects with the first call, and has the size of the export", async () => {
    const { server, file } = newFile({ size: 5000 })
    expect([file.path, file.readOnly, server.connections.length]).toEqual(["nbd://localhost/image", false, 0])
    expect(await Promise.all([file.size(), file.size()])).toEqual([5000, 5000])
    expect(server.connections).toHaveLength(1)
  })

  it("reads up to its end, and writes within it", async () => {
    const { server, file } = newFile({ size: 5000 })
    const data = new Rng(1).bytes(1000)
    await file.write(data, 4000)
    const buffer = new Uint8Array(2000).fill(0xee)
    expect(await file.read(buffer, 4500)).toBe(500)
    expect(Buffer.compare(buffer.subarray(0, 500), data.subarray(500))).toBe(0)
    expect(buffer[500]).toBe(0xee)
    expect(await file.read(buffer, 5000)).toBe(0)
    expect(await file.read(buffer, 9000)).toBe(0)
    await file.sync()
    expect(server.log).toEqual(["WRITE 4000+1000", "READ 4500+500", "FLUSH"])
  })

  it("neither grows nor shrinks", async () => {
    const { file } = newFile({ size: 5000 })
    await expect(file.write(new Uint8Array(10), 4995)).rejects.toMatchObject({ code: "no-space" })
    await expect(file.truncate(5001)).rejects.toMatchObject({ code: "no-space" })
    await expect(file.truncate(4999)).rejects.toMatchObject({ code: "unsupported" })
    await file.truncate(5000)
  })

  it("zeroes ranges if the server does so fast, and returns false if not", async () => {
    const { server, file } = newFile({ size: 10_000 })
    await file.write(new Uint8Array(10_000).fill(1), 0)
    expect([await file.punchHole(0, 4096), await file.zeroRange(4096, 4096)]).toEqual([true, true])
    expect(server.requests.slice(1).map(({ type, flags }) => [type, flags])).toEqual([[6, 16], [6, 18]])
    expect(server.content.findIndex((byte) => byte !== 0)).toBe(8192)
    server.answer = (request, connection) => connection.sendError(request, 95)
    expect([await file.punchHole(0, 4096), await file.zeroRange(0, 4096)]).toEqual([false, false])
    server.answer = (request, connection) => connection.sendError(request, 28)
    await expect(file.punchHole(0, 4096)).rejects.toMatchObject({ code: "no-space" })
    const plain = newFile({ size: 10_000, flags: 1 }).file
    expect([await plain.punchHole(0, 4096), await plain.zeroRange(0, 4096)]).toEqual([false, false])
  })

  it("is read-only where the options or the server say so", async () => {
    for (const [flags, readOnly] of [[ALL_FLAGS | 2, false], [ALL_FLAGS, true]] as const) {
      const { file } = newFile({ size: 5000, flags }, { readOnly })
      expect(file.readOnly).toBe(readOnly)
      await file.size()
      expect(file.readOnly).toBe(true)
      await expect(file.write(new Uint8Array(10), 0)).rejects.toMatchObject({ code: "read-only" })
    }
  })

  it("connects at a later call when the server was not there before", async () => {
    const { server, file } = newFile({ size: 5000 })
    server.refusal = Object.assign(new Error("no"), { code: "ECONNREFUSED" })
    await expect(file.size()).rejects.toThrow("nobody listens there")
    server.refusal = undefined
    expect(await file.size()).toBe(5000)
    await file.close()
    await expect(file.size()).rejects.toMatchObject({ code: "closed" })
  })

  it("does not flush when it is closed: sync does that", async () => {
    const { server, file } = newFile({ size: 5000 })
    await file.write(new Uint8Array(10), 0)
    await file.close()
    await file.close()
    expect(server.log).toEqual(["WRITE 0+10", "DISC"])
  })
})

describe("openDisk over it", () => {
  it("a raw disk, if stated as such, is the export itself", async () => {
    const { file } = newFile({ size: 5000 })
    const disk = await openDisk(file, { format: "raw", readOnly: true })
    expect(disk).toBeInstanceOf(NbdDisk)
    expect([disk.size, disk.readOnly]).toEqual([5000, true])
    await disk.close()
  })

  it("a qcow2 image in it survives a server that crashes in the middle", async () => {
    const image = new MemoryFile()
    createQcow2(image, { size: 1 << 20 })
    const size = 4 << 20
    const { server, file } = newFile({ size })
    server.content.set(image.bytes())
    server.stable.set(image.bytes())
    let count = 0
    server.answer = (request, connection) => {
      if (++count % 7 === 0) server.crash()
      else server.serve(request, connection)
    }
    const disk = await openDisk(file, { format: "qcow2" })
    const data = new Rng(3).bytes(200_000)
    for (let at = 0; at < data.length; at += 20_000) {
      await disk.pwrite(data.subarray(at, at + 20_000), at)
      await disk.flush?.()
    }
    await disk.close()
    const again = await openDisk(MemoryFile.from(server.stable.slice()), { format: "qcow2" })
    const back = new Uint8Array(data.length)
    await again.pread(back, 0)
    expect(Buffer.compare(back, data)).toBe(0)
    await again.close()
  })
})

it("options of TLS are refused with a URI that connects unencrypted", async () => {
  for (const options of [{ ca: "PEM" }, { cert: "PEM" }, { key: "PEM" }, { servername: "disk.example" }]) {
    const [name] = Object.keys(options)
    const refusal = `nbd://h/disk: ${name} is for TLS, and this URI connects without it; write nbds in place of nbd`
    expect(() => nbdFile("nbd://h/disk", options)).toThrow(refusal)
    await expect(nbdDisk("nbd://h/disk", options)).rejects.toThrow(refusal)
    await nbdFile("nbds://h/disk", options).close()
  }
})

it("a wrong URI and a wrong option are refused in one line", async () => {
  const wrong: unknown = 5
  expect(() => nbdFile(wrong as string)).toThrow(new TypeError("nbdFile: uri must be a string, not 5"))
  await expect(nbdDisk(wrong as string)).rejects.toThrow("nbdDisk: uri must be a string, not 5")
  const misspelled: object = { readonly: true }
  expect(() => nbdFile("nbd://h", misspelled)).toThrow('nbdFile: unknown option "readonly"; did you mean "readOnly"?')
  expect(() => nbdFile("nbd://h", { connections: 17 })).toThrow(RangeError)
  expect(() => nbdFile("nbd://h", { maxInFlight: 0 })).toThrow(RangeError)
  expect(() => nbdFile("nbd://h", { reconnectTimeout: 2 ** 31 })).toThrow(RangeError)
  const certificate: unknown = 5
  expect(() => nbdFile("nbd://h", { ca: certificate as string })).toThrow("nbdFile: ca must be a string or a Uint8Array with PEM in it")
  await expect(nbdDisk("http://h")).rejects.toMatchObject({ code: "invalid-argument" })
})
