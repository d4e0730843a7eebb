/** `NbdServer` against QEMU's tools and those of libnbd: bytes and maps compared with what the same tools make of the image itself. */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, vi } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { promiseBacking } from "../harness/fake-disk.ts"
import { goldenImages, goldenPath } from "../support/golden.ts"
import { expectSame } from "../support/nbd/client.ts"
import { serve } from "../support/nbd/server.ts"
import { itWithNbdTools, makeCertificates, tool, uri } from "../support/nbd/tools.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const seed = seedFromEnvironment(31_415)
/** Those that can be opened. */
const READABLE = goldenImages.filter(({ file }) => !/data-file|cut/.test(file))

interface QemuExtent {
  readonly start: number
  readonly length: number
  readonly depth: number
  readonly zero: boolean
  readonly data: boolean
}

/** Serves `backing`; its path as a URI, and what `onError` heard. */
async function served(backing: VirtioBacking): Promise<{ readonly at: string; readonly errors: string[] }> {
  const { path, errors } = await serve({ exports: [{ backing }] })
  return { at: uri(path), errors }
}

/** What each sector is: "zero", "data", or "?" where that is not said. */
function sectors(extents: readonly QemuExtent[], size: number, wordOf: (extent: QemuExtent) => string): string[] {
  const map: string[] = Array.from({ length: Math.ceil(size / 512) }, () => "missing")
  for (const extent of extents) map.fill(wordOf(extent), Math.floor(extent.start / 512), Math.ceil((extent.start + extent.length) / 512))
  return map
}

describe("reading golden images through NBD", () => {
  for (const { file } of READABLE) {
    itWithNbdTools(`${file} has the same bytes by nbdcopy and qemu-img, and the map that qemu-img map makes of the image`, async () => {
      const path = goldenPath(file)
      const image = openImage(path, { readOnly: true })
      if (!(image instanceof Qcow2Image)) throw new Error("not a qcow2 image")
      const { at, errors } = await served(image)
      const folder = temporaryDirectory()
      const expected = new Uint8Array(image.size)
      image.pread(expected, 0)

      expect(JSON.parse(await tool("qemu-img", "info", "--output=json", at))["virtual-size"]).toBe(Math.ceil(image.size / 512) * 512)
      await tool("nbdcopy", at, join(folder, "copy"))
      expectSame(readFileSync(join(folder, "copy")), expected)
      expect(await tool("qemu-img", "compare", "-f", "raw", "-F", file.endsWith(".raw") ? "raw" : "qcow2", at, path)).toContain("identical")

      const [theirs, ours]: QemuExtent[][] = await Promise.all([
        tool("qemu-img", "map", "--output=json", path).then((text) => JSON.parse(text)),
        tool("qemu-img", "map", "--output=json", "-f", "raw", at).then((text) => JSON.parse(text)),
      ])
      const their = sectors(theirs ?? [], image.size, ({ zero }) => (zero ? "zero" : "data"))
      const our = sectors(ours ?? [], image.size, ({ zero }) => (zero ? "zero" : "data"))
      // QEMU asks the host for holes where the image has data, which Node cannot: "data" is what is known.
      for (const { offset, length } of [...image.map(0, image.size)].filter(({ kind }) => kind === "data")) {
        their.fill("data", offset / 512, Math.ceil((offset + length) / 512))
      }
      expect(our).toEqual(their)
      const nbdMap: readonly { offset: number; length: number; type: number }[] = JSON.parse(await tool("nbdinfo", "--json", "--map", at))
      const listed = nbdMap.map(
        ({ offset, length, type }) => ({ start: offset, length, depth: 0, zero: (type & 2) !== 0, data: (type & 1) === 0 }),
      )
      expect(sectors(listed, image.size, ({ zero }) => (zero ? "zero" : "data"))).toEqual(our)
      expect(errors).toEqual([])
      image.close()
    })
  }
})

describe("writing through NBD", () => {
  const SIZE = 24 << 20

  for (const [name, wrap] of [["at once", (disk: VirtioBacking) => disk], ["later", promiseBacking]] as const) {
    itWithNbdTools(`nbdcopy, qemu-img convert and qemu-io fill sound images over a disk that answers ${name}`, async () => {
      const folder = temporaryDirectory()
      const rng = new Rng(seed)
      const content = Buffer.alloc(SIZE)
      for (let count = 0; count < 20; count++) {
        const length = rng.between(1, 1 << 20)
        content.set(rng.bytes(length), rng.below(SIZE - length))
      }
      const raw = join(folder, "content.raw")
      writeFileSync(raw, content)
      const copiers = [
        (at: string) => tool("nbdcopy", raw, at),
        (at: string) => tool("nbdcopy", "--request-size=65536", "--requests=16", "--connections=3", raw, at),
        (at: string) => tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", raw, at),
      ]
      for (const [index, copy] of copiers.entries()) {
        const path = join(folder, `${index}.qcow2`)
        createImage(path, { size: SIZE })
        const image = openImage(path)
        const { at, errors } = await served(wrap(image))
        await copy(at)
        await tool("qemu-io", "-f", "raw", "-c", "write -P 7 1000 70000", "-c", "read -P 7 1000 70000", "-c", "flush", at)
        await tool(
          "qemu-io", "-f", "raw", "-c", "write -z 2M 3M", "-c", "write -z -u 8M 3M", "-c", "discard 16M 1M", "-c", "write -f -P 8 17M 64k",
          at,
        )
        await tool("qemu-io", "-f", "raw", "-c", "read -P 0 2M 3M", "-c", "read -P 0 8M 3M", "-c", "read -P 8 17M 64k", at)
        const read = new Uint8Array(SIZE)
        image.pread(read, 0)
        image.close()
        const expected = Buffer.from(content)
        expected.fill(7, 1000, 71_000).fill(0, 2 << 20, 5 << 20).fill(0, 8 << 20, 11 << 20).fill(8, 17 << 20, (17 << 20) + 65_536)
        // What was discarded may hold anything.
        expected.set(read.subarray(16 << 20, 17 << 20), 16 << 20)
        expectSame(read, expected)
        await tool("qemu-img", "check", path)
        expect(errors).toEqual([])
      }
    })
  }

  itWithNbdTools("nbdsh gets flags, FUA, zeroes, trim, status and errors, with several requests at once over two connections", async () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    createImage(path, { size: SIZE })
    const image = openImage(path)
    const { at, errors } = await served(image)
    const script = `
import errno
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(${JSON.stringify(at)})
other = nbd.NBD()
other.connect_uri(${JSON.stringify(at)})
assert h.get_size() == ${SIZE} and h.can_multi_conn() and h.can_flush() and h.can_fua() and h.can_df() and h.can_zero()
assert h.can_trim() and h.can_fast_zero() and not h.is_read_only() and h.get_block_size(nbd.SIZE_MAXIMUM) == 1 << 25
data = bytes(range(256)) * 4096
h.pwrite(data, 12345, nbd.CMD_FLAG_FUA)
other.flush()
assert other.pread(len(data), 12345) == data
pieces = []
h.pread_structured(len(data), 12345, lambda buffer, offset, status, error: pieces.append((bytes(buffer), offset)), nbd.CMD_FLAG_DF)
assert pieces == [(data, 12345)]
h.zero(65536, 65536)
h.zero(8192, 131072, nbd.CMD_FLAG_NO_HOLE)
h.zero(4 << 20, 16 << 20, nbd.CMD_FLAG_FAST_ZERO)
assert other.pread(65536, 65536) == bytearray(65536)
h.trim(262144, 262144)
seen = []
def note(context, offset, entries, error):
    seen.extend(entries)
h.block_status(${SIZE}, 0, note)
assert sum(seen[::2]) == ${SIZE}, seen
assert seen[1] == 0 and seen[-1] == 3, seen
buffers = [nbd.Buffer(4096) for _ in range(500)]
cookies = [h.aio_pread(buffer, 4096 * index) for index, buffer in enumerate(buffers)]
for cookie in cookies:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
whole = other.pread(4096 * 500, 0)
assert b"".join(bytes(buffer.to_bytearray()) for buffer in buffers) == bytes(whole)
h.set_strict_mode(0)
for call, wanted in [
    (lambda: h.pread(512, ${SIZE}), errno.EINVAL), (lambda: h.pwrite(b"x" * 512, ${SIZE - 1}), errno.ENOSPC),
    (lambda: h.trim(2, ${SIZE - 1}), errno.EINVAL), (lambda: h.zero(2, ${SIZE - 1}), errno.ENOSPC), (lambda: h.cache(512, 0), errno.EINVAL),
    (lambda: h.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO), errno.ENOTSUP),
]:
    try:
        call()
    except nbd.Error as ex:
        assert ex.errnum == wanted, (ex, wanted)
    else:
        assert False, wanted
h.shutdown()
other.shutdown()
`
    await tool("nbdsh", "-c", script)
    expect(errors).toEqual([])
    image.close()
    await tool("qemu-img", "check", path)
  })

  itWithNbdTools("fio writes at random and verifies, 16 under way on each of two connections", async () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    createImage(path, { size: SIZE })
    const image = openImage(path)
    const { at, errors } = await served(image)
    const words = [
      "--name=verify", "--ioengine=nbd", `--uri=${at}`, "--rw=randwrite", "--bs=4k", "--size=8m", "--iodepth=16", "--verify=crc32c",
    ]
    const out = await tool(
      "fio", ...words, "--do_verify=1", "--verify_state_save=0", "--verify_fatal=1", "--numjobs=2", "--offset_increment=8m",
      `--randseed=${seed}`, "--output-format=json",
    )
    const report: { jobs: { error: number; write: { total_ios: number } }[] } = JSON.parse(out.slice(out.indexOf("{")))
    expect(report.jobs.map(({ error, write }) => [error, write.total_ios])).toEqual([[0, 2048], [0, 2048]])
    expect(errors).toEqual([])
    image.close()
    await tool("qemu-img", "check", path)
  })
})

describe("TLS", () => {
  itWithNbdTools("clients of libnbd and QEMU are served with a certificate, and refused without one or without TLS", async () => {
    const folder = temporaryDirectory()
    const certificates = await makeCertificates(folder)
    const path = join(folder, "disk.qcow2")
    copyFileSync(goldenPath("zlib-4k.qcow2"), path)
    const image = openImage(path, { readOnly: true })
    const pem = (file: string): string => readFileSync(file, "utf8")
    const tls = { cert: pem(certificates.serverCert), key: pem(certificates.serverKey), ca: pem(certificates.ca) }
    const { path: socket, server, errors } = await serve({ exports: [{ backing: image }], tls })
    const at = uri(socket, "", "nbds")

    const info = await tool("nbdinfo", "--json", `${at}&tls-certificates=${folder}&tls-hostname=localhost`)
    expect(JSON.parse(info)).toMatchObject({ TLS: true, exports: [{ "export-size": image.size }] })
    await tool("nbdcopy", `${at}&tls-certificates=${folder}&tls-hostname=localhost`, join(folder, "copy"))
    const expected = new Uint8Array(image.size)
    image.pread(expected, 0)
    expectSame(readFileSync(join(folder, "copy")), expected)
    const credentials = `tls-creds-x509,id=t,dir=${folder},endpoint=client`
    const options = `driver=nbd,path=${socket},server.type=unix,server.path=${socket},tls-creds=t,tls-hostname=localhost`.replace(
      `path=${socket},server`, "server",
    )
    expect(await tool("qemu-img", "info", "--object", credentials, "--image-opts", options)).toContain("virtual size")
    expect(errors).toEqual([])

    await expect(tool("nbdinfo", uri(socket))).rejects.toThrow("TLS")
    const stranger = await makeCertificates(temporaryDirectory())
    copyFileSync(certificates.ca, join(stranger.directory, "ca-cert.pem"))
    await expect(tool("nbdinfo", `${at}&tls-certificates=${stranger.directory}&tls-hostname=localhost`)).rejects.toThrow("nbdinfo")
    await vi.waitFor(() => expect(errors).toEqual([expect.stringContaining("its certificate is not accepted")]))
    await vi.waitFor(() => expect(server.clients).toBe(0))
    image.close()
  })
})
