/**
 * LUKS through the device against qemu-io with the same key (`qemu-img bench` of QEMU 7.2 takes no secret), and its cipher against
 * node:crypto by itself.
 */
import { spawnSync } from "node:child_process"
import { createDecipheriv, randomBytes } from "node:crypto"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { createImage } from "../../../src/backing/create.ts"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { makeCipher } from "../../../src/backing/luks/make-cipher.ts"
import { SectorIo } from "../../../src/backing/luks/sector-io.ts"
import { openImage } from "../../../src/backing/open.ts"
import { GuestRing } from "../guest-ring.ts"
import { IMAGE_BYTES, offsets, withImage } from "../image.ts"
import { cpuTime, heading, interleave, median, row, wallTime } from "../measure.ts"
import { hasQemuImg } from "../qemu-bench.ts"

const passphrase = "bench"
const MIB = 1 << 20

export function benchLuks(): void {
  cipherAlone()
  withImage((_raw, folder) => {
    const path = join(folder, "luks.qcow2")
    createImage(path, { size: IMAGE_BYTES, encryption: { passphrase, iterTime: 10 } })
    const disk = openImage(path, { passphrase })
    const content = randomBytes(MIB)
    for (let offset = 0; offset < IMAGE_BYTES; offset += MIB) disk.pwrite(content, offset)
    disk.close()
    if (hasQemuImg) againstQemu(path, folder)
    else console.log("\nqemu-img is not installed: no comparison with it")
  })
}

/** Sectors need an IV each, so node:crypto by itself is one cipher for each sector. One call for all of them decrypts to nonsense. */
function cipherAlone(): void {
  const [key, iv] = [randomBytes(64), randomBytes(16)]
  const cipher = makeCipher({ name: "aes", mode: "xts", ivGenerator: "plain64", ivHash: undefined, keyBytes: 64 }, key, nodeCryptography)
  heading("Decrypting by aes-256-xts; ns of CPU time a call", "ours", "node:crypto")
  for (const [name, length, count] of [["4 KiB", 4096, 2000], ["1 MiB", MIB, 12]] as const) {
    const data = new Uint8Array(randomBytes(length))
    const target = [new Uint8Array(length)]
    const read = (bytes: Uint8Array, offset: number): void => bytes.set(data.subarray(offset, offset + bytes.length))
    const io = new SectorIo(cipher, { read, write: () => undefined })
    const [ours, sectors, whole] = interleave([
      { name: "ours", run: (total) => repeat(total, () => io.read(target, 0, length, 512 * 77)) },
      {
        name: "sectors",
        run: (total) => repeat(total, () => {
          for (let at = 0; at < length; at += 512) createDecipheriv("aes-256-xts", key, iv).update(data.subarray(at, at + 512))
        }),
      },
      { name: "whole", run: (total) => repeat(total, () => void createDecipheriv("aes-256-xts", key, iv).update(data)) },
    ], count)
    console.log(row(`${name}, node:crypto with an IV for each sector`, ours?.ns ?? Number.NaN, sectors?.ns ?? Number.NaN, ">= 0.9"))
    console.log(row(`${name}, node:crypto as if it were one sector`, ours?.ns ?? Number.NaN, whole?.ns ?? Number.NaN, "(a bound)"))
  }
}

function repeat(total: number, work: () => void): void {
  for (let index = 0; index < total; index++) work()
}

function againstQemu(path: string, folder: string): void {
  const secret = join(folder, "secret")
  writeFileSync(secret, passphrase)
  heading("LUKS through the device against qemu-io with the same key; ns of a wall clock a request", "device", "qemu-io")
  for (const type of ["read", "write"] as const) {
    const count = 8192
    const ours: number[] = []
    const theirs: number[] = []
    const cpu: number[] = []
    for (let round = 0; round < 5; round++) {
      const backing = openImage(path, { passphrase })
      const ring = new GuestRing({ backing, batch: 1, bytes: 4096, type, placement: "apart" })
      const at = offsets(count, 4096, "random")
      const [cpuStart, start] = [cpuTime(), wallTime()]
      for (let done = 0; done < count; done++) ring.kick(at, done)
      ours.push((wallTime() - start) / count)
      cpu.push((cpuTime() - cpuStart) / count)
      ring.check()
      backing.close()
      theirs.push((qemuIo(path, secret, type, at) - qemuIo(path, secret, type, at.subarray(0, 1))) / count)
    }
    console.log(row(`${type} 4 KiB random, depth 1`, median(ours), median(theirs), ">= 1"))
    console.log(`${type} 4 KiB random through the device: ${median(cpu).toFixed(0)} ns of CPU time`)
  }
}

/** Nanoseconds of a wall clock that a qemu-io takes which does one request at each of the offsets. */
function qemuIo(path: string, secret: string, type: "read" | "write", at: Float64Array): number {
  const input = Array.from(at, (offset) => `${type} -q ${offset} 4096\n`).join("")
  const start = wallTime()
  const words = ["--object", `secret,id=s,file=${secret}`, "--image-opts", `driver=qcow2,encrypt.key-secret=s,file.filename=${path}`]
  const { status } = spawnSync("qemu-io", words, { input })
  return status === 0 ? wallTime() - start : Number.POSITIVE_INFINITY
}
