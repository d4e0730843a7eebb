/**
 * How long one access of the guest, or one turn of work that was put off, holds the host's thread: CPU time of the process, V8's compiler
 * and collector included. Long requests are done in turns of some 5 ms or 16 MiB.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { cpuTime } from "./measure.ts"

const SECTORS_A_GIB = 2 ** 21

let longest = 0

/** `act`, with its CPU time counted. */
function timed<A extends readonly unknown[], R>(act: (...args: A) => R): (...args: A) => R {
  return (...args) => {
    const start = cpuTime()
    try {
      return act(...args)
    } finally {
      longest = Math.max(longest, cpuTime() - start)
    }
  }
}

/** Opens `path` behind a machine, lets `use` send requests to it, three times, and prints the longest hold of the last two. */
async function measured(name: string, path: string, use: (disk: BlockDriver) => Promise<void>): Promise<void> {
  const image = openImage(path, { format: path.endsWith(".raw") ? "raw" : "qcow2" })
  const vm = new Machine({ ramSize: 64 << 20 })
  vm.attachDisk(image)
  vm.mmioWrite = timed(vm.mmioWrite.bind(vm))
  vm.portWrite = timed(vm.portWrite.bind(vm))
  const [device] = findBlockDevices(vm)
  if (device === undefined) throw new Error("the machine has no disk")
  const disk = await BlockDriver.open(device)
  const { setImmediate } = globalThis
  const put = (task: (...args: unknown[]) => void, ...args: unknown[]) => setImmediate(timed(task), ...args)
  globalThis.setImmediate = Object.assign(put, setImmediate)
  try {
    for (let round = 0; round < 3; round++) {
      if (round === 1) longest = 0
      await use(disk)
    }
  } finally {
    globalThis.setImmediate = setImmediate
  }
  await disk.close()
  image.close()
  console.log(`${name.padEnd(58)} ${(longest / 1e6).toFixed(1).padStart(7)} ms   target < 10`)
}

/** An image of 256 MiB with compressed clusters of 2 MiB, made by qemu-img; undefined where there is none. */
function compressedImage(folder: string): string | undefined {
  const [plain, path] = [join(folder, "plain"), join(folder, "compressed.qcow2")]
  const content = readFileSync(process.execPath)
  writeFileSync(plain, Buffer.alloc(256 << 20, content.subarray(0, 64 << 20)))
  const made = spawnSync("qemu-img", ["convert", "-c", "-O", "qcow2", "-o", "cluster_size=2M", plain, path])
  return made.status === 0 ? path : undefined
}

/** Prints a line for each kind of request that takes long. */
export async function benchHold(): Promise<void> {
  console.log("\nThe longest hold of the host's thread, CPU time")
  const folder = mkdtempSync(join(tmpdir(), "vioblk-hold-"))
  try {
    const raw = join(folder, "disk.raw")
    createImage(raw, { format: "raw", size: 8 * 2 ** 30 })
    const whole = [{ sector: 0, sectors: 8 * SECTORS_A_GIB }]
    await measured("WRITE_ZEROES, 8 GiB of a sparse raw file", raw, (disk) => disk.writeZeroes(whole))
    await measured("WRITE_ZEROES, 8 GiB, may unmap", raw, (disk) => disk.writeZeroes(whole, { unmap: true }))
    const apart = Array.from({ length: 256 }, (_, index) => ({ sector: index * 8192, sectors: 4096 }))
    await measured("DISCARD, 256 ranges of 2 MiB apart", raw, (disk) => disk.discard(apart))
    // Through one piece of RAM again and again: a header of zeroes is a read of sector 0.
    const header = { address: 40 << 20, length: 16, writable: false }
    const data = Array.from({ length: 100 }, () => ({ address: 41 << 20, length: 16 << 20, writable: true }))
    const status = { address: 60 << 20, length: 1, writable: true }
    await measured("IN, one request of 1.6 GiB", raw, (disk) => disk.submit([header, ...data, status]).then(() => undefined))
    const compressed = compressedImage(folder)
    if (compressed === undefined) return
    await measured("IN, 128 sectors in compressed clusters of 2 MiB", compressed, async (disk) => {
      await Promise.all(Array.from({ length: 128 }, (_, index) => disk.read(((index * 37) % 128) * 4096, 1)))
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}
