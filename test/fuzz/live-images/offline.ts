/** Work on an image that nobody has open: options that change, key slots, repairs; and a look at it by QEMU. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { BackingError } from "../../../src/backing/backing.ts"
import { addSlot, removeSlots } from "../../../src/backing/luks/change-slots.ts"
import { unlockVolume } from "../../../src/backing/luks/volume.ts"
import { amendImage, type AmendImageOptions } from "../../../src/backing/operations/amend-image.ts"
import { luksArea } from "../../../src/backing/qcow2/encryption.ts"
import { readHeader } from "../../../src/backing/qcow2/format/parse-header.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { runQemu } from "../../support/qemu.ts"
import { PASSPHRASE, quickCryptography } from "../../support/shapes.ts"
import { expectBytes } from "./expected.ts"
import type { Run } from "./run.ts"

/** The chain as files of the host, while `work` needs them. */
function inDirectory(run: Run, work: (directory: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), "vioblk-work-"))
  try {
    for (const name of run.chain) {
      const { file, data } = run.world.layer(name)
      file.save(join(directory, name))
      data?.save(join(directory, `${name}.data`))
    }
    work(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Changes options of the closed image by path. What cannot be is refused with nothing changed. */
export async function amend(run: Run): Promise<void> {
  const { rng, world, expected } = run
  const options: AmendImageOptions = rng.pick<AmendImageOptions>([
    { compat: "0.10" }, { compat: "0.10" }, { compat: "1.1" }, { compat: "1.1", lazyRefcounts: rng.chance(0.5) },
    { refcountBits: rng.pick([1, 2, 4, 8, 16, 32, 64]) }, { size: expected.disk.size + 512 * rng.below(100) },
  ])
  await run.close()
  run.note(`amend ${JSON.stringify(options)}`)
  let isDone = true
  inDirectory(run, (directory) => {
    const path = join(directory, world.top)
    try {
      amendImage(path, { ...options, passphrase: PASSPHRASE })
    } catch (error) {
      if (!(error instanceof BackingError) || !["unsupported", "invalid-argument", "no-space"].includes(error.code)) throw error
      run.note(`  ${error.code}: ${error.message.slice(path.length, path.length + 100)}`)
      isDone = false
    }
    const layer = world.layer(world.top)
    layer.file = MemoryFile.load(path, { path: world.top })
    if (layer.data !== undefined) layer.data = MemoryFile.load(`${path}.data`, { path: "data" })
  })
  if (isDone && options.size !== undefined) expected.replace(expected.resized(options.size))
  run.checkFile()
  await run.open()
  await run.check("amended")
}

/** Gives the image a passphrase more, or takes one away. */
export async function changeKeySlots(run: Run): Promise<void> {
  const { rng, world, passphrases } = run
  const layer = world.layer(world.top)
  if (layer.encryption !== "luks") return
  await run.close()
  layer.file = layer.file.clone()
  const file = new FailingFile(layer.file)
  const found = luksArea(file, readHeader(file))
  if (found === undefined) throw new Error("there is no LUKS header")
  const area = { ...found, file }
  const isRemoval = passphrases.size > 0 && rng.chance(0.5)
  const passphrase = isRemoval ? rng.pick([...passphrases]) : `passphrase ${rng.u32()}`
  run.note(`${isRemoval ? "remove" : "add"} ${passphrase}`)
  run.arm({ files: [file] })
  try {
    if (isRemoval) removeSlots(area, { passphrase }, quickCryptography)
    else addSlot(area, { passphrase: PASSPHRASE, newPassphrase: passphrase, iterTime: 1 }, quickCryptography)
    if (isRemoval) passphrases.delete(passphrase)
    else passphrases.add(passphrase)
  } catch (error) {
    run.judge(error)
    file.plan = undefined
    // It opens the image, or it does not.
    if (opens(area, passphrase)) passphrases.add(passphrase)
    else passphrases.delete(passphrase)
  }
  file.plan = undefined
  for (const one of [PASSPHRASE, ...passphrases]) if (!opens(area, one)) throw new Error(`the ${one} opens the image no more`)
  if (isRemoval && !passphrases.has(passphrase) && opens(area, passphrase)) throw new Error(`the removed ${passphrase} opens the image`)
  await run.open()
  await run.check("key slots changed")
}

function opens(area: Parameters<typeof unlockVolume>[0], passphrase: string): boolean {
  try {
    unlockVolume(area, { passphrase, cryptography: quickCryptography })
    return true
  } catch (error) {
    if (error instanceof BackingError && error.code === "permission") return false
    throw error
  }
}

/** QEMU finds nothing wrong with the closed image, and reads what we do, snapshots included. */
export function lookByQemu(run: Run): void {
  const { world, expected } = run
  inDirectory(run, (directory) => {
    const node = `json:${JSON.stringify(nodeOf(run, directory, world.top))}`
    const secret = ["--object", `secret,id=key,data=${PASSPHRASE}`]
    qemuImg(directory, ["check", ...secret, node])
    const raw = join(directory, "seen")
    qemuImg(directory, ["convert", "-t", "unsafe", ...secret, "-O", "raw", node, raw])
    expectBytes(new Uint8Array(readFileSync(raw)), expected.disk, "the disk, as QEMU reads it,")
    for (const [id, { content }] of expected.snapshots) {
      qemuImg(directory, ["convert", "-t", "unsafe", ...secret, "-l", `snapshot.id=${id}`, "-O", "raw", node, raw])
      // QEMU shows it in the size that the disk has now.
      const size = Math.min(content.size, expected.disk.size)
      const shown = new Uint8Array(readFileSync(raw)).subarray(0, size)
      expectBytes(shown, FlatModel.of(content.read(0, size)), `snapshot ${id}, as QEMU reads it,`)
    }
  })
}

/** A block node, as QEMU describes it. */
function nodeOf({ world, chain }: Run, directory: string, name: string): object {
  const { format, encryption } = world.layer(name)
  const file = { driver: "file", filename: join(directory, name) }
  if (format === "raw") return { driver: "raw", file }
  const behind = chain[chain.indexOf(name) + 1]
  return {
    driver: "qcow2", file,
    ...(encryption === undefined ? {} : { encrypt: { format: encryption, "key-secret": "key" } }),
    ...(behind === undefined ? {} : { backing: nodeOf({ world, chain } as Run, directory, behind) }),
  }
}

function qemuImg(cwd: string, words: readonly string[]): void {
  const { status, stdout, stderr, error } = runQemu("qemu-img", words, { cwd })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`qemu-img ${words.join(" ")}: exit ${status}: ${stderr}${stdout}`)
}
