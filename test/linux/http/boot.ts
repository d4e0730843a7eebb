/** Linux boots over HTTP: what is fetched for it, beside what v86's own lazy disk fetches for the same image. */
import { closeSync, openSync, readSync, statSync } from "node:fs"
import * as promises from "node:fs/promises"
import { createServer, type Server } from "node:http"
import { createRequire, syncBuiltinESMExports } from "node:module"
import type { AddressInfo } from "node:net"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../../src/backing/sources/http/http-file.ts"
import { attachToV86 } from "../../../src/vmm/v86/attach.ts"
import { grubDisk } from "../boot-images.ts"
import { run } from "../cache.ts"
import { Guest } from "../emulator.ts"
import { initramfs } from "../initramfs.ts"
import { KERNEL_LINE } from "../linux.ts"
import { debianKernel } from "../packages.ts"
import { type GuestContext, type GuestTest, same } from "../suite.ts"

const MEBIBYTES = 256
const MIB = 1 << 20

interface Traffic { requests: number; bytes: number }

/** Serves `path` by ranges, and counts. */
async function serve(path: string, traffic: Traffic): Promise<Server> {
  const size = statSync(path).size
  const file = openSync(path, "r")
  const server = createServer((request, response) => {
    const [, first = "0", last = "0"] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? []
    const end = Math.min(Number(last), size - 1)
    const body = Buffer.alloc(end - Number(first) + 1)
    readSync(file, body, 0, body.length, Number(first))
    traffic.requests++
    traffic.bytes += body.length
    response.writeHead(206, { "Content-Range": `bytes ${first}-${end}/${size}`, "Content-Length": body.length, ETag: '"1"' }).end(body)
  })
  server.on("close", () => closeSync(file))
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return server
}

/** Boots from GRUB on, and has the guest read its kernel once more. Returns the seconds that this took. */
export async function boot(context: GuestContext, options: Parameters<typeof Guest.start>[0], device: string): Promise<string> {
  const started = performance.now()
  const guest = await Guest.start({ ...options, log: context.log })
  await guest.expect(/VIOBLK-GRUB/)
  await guest.expect(/VIOBLK-READY/)
  await guest.command(`mount -t ext2 -o ro /dev/${device} /mnt`)
  const sum = (await guest.command("sha256sum /mnt/boot/vmlinuz")).split(" ")[0]
  same(sum, run("sha256sum", [debianKernel().image]).split(" ")[0], "SHA-256 of the kernel, read in the guest")
  await guest.stop()
  return ((performance.now() - started) / 1000).toFixed(0)
}

async function overHttp(context: GuestContext, path: string): Promise<string> {
  const traffic = { requests: 0, bytes: 0 }
  const server = await serve(path, traffic)
  const disk = await openDisk(httpFile(`http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.raw`), { format: "raw" })
  const seconds = await boot(context, { attach: (emulator) => attachToV86(emulator, disk) }, "vda1")
  await disk.close()
  server.close()
  same(traffic.bytes < (MEBIBYTES * MIB) / 2, true, `bytes fetched (${traffic.bytes}), fewer than half of the image`)
  return `vioblk: ${told(traffic)}, ${seconds} s`
}

/** In Node, v86's lazy disk opens the file anew for each request: that is what is counted. */
async function v86Own(context: GuestContext, path: string): Promise<string> {
  const traffic = { requests: 0, bytes: 0 }
  const mutable = (createRequire(import.meta.url)("node:fs") as { promises: { open: typeof promises.open } }).promises
  const { open } = mutable
  mutable.open = async (name, ...rest) => {
    const handle = await open(name, ...rest)
    if (name !== path) return handle
    const read = handle.read.bind(handle) as (options: { buffer: Uint8Array }) => Promise<unknown>
    return Object.assign(handle, { read: (options: { buffer: Uint8Array }) => {
      traffic.requests++
      traffic.bytes += options.buffer.length
      return read(options)
    } })
  }
  syncBuiltinESMExports()
  const seconds = await boot(context, { v86: { hda: { url: path, async: true, size: statSync(path).size } } }, "sda1")
  mutable.open = open
  syncBuiltinESMExports()
  return `v86's own: ${told(traffic)}, ${seconds} s`
}

function told({ requests, bytes }: Traffic): string {
  return `${requests} requests, ${(bytes / MIB).toFixed(1)} MiB`
}

/** Makes the image that is booted from, of 256 MiB. Returns its path. */
export function bootDisk(context: GuestContext): string {
  const path = context.path("http.raw")
  const modules = ["virtio_pci", "virtio_blk", "ata_piix", "sd_mod", "ext4", "crc32c_generic"]
  const initrd = initramfs({ kernel: debianKernel(), modules })
  grubDisk(context, path, { initrd, commandLine: KERNEL_LINE, mebibytes: MEBIBYTES })
  return path
}

/** Boots over HTTP. Returns what was fetched for it. */
async function http(context: GuestContext, isCompared: boolean): Promise<string> {
  const path = bootDisk(context)
  const ours = await overHttp(context, path)
  const lines = [`GRUB and Linux over HTTP from ${MEBIBYTES} MiB`, ours]
  return (isCompared ? [...lines, await v86Own(context, path)] : lines).join("; ")
}

export const httpTests: readonly GuestTest[] = [
  { name: "http", title: "GRUB and Linux boot over HTTP", limit: 480, run: (context) => http(context, false) },
]

/** For `bench:guest`: the same beside v86's own lazy disk. */
export const benchHttpBoot = (context: GuestContext): Promise<string> => http(context, true)
