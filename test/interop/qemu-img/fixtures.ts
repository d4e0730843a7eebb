/** The images that command lines are tried on: made once by QEMU's own tools, copied for each line. */
import { spawnSync } from "node:child_process"
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { qemuImg, qemuIo, runQemu } from "../../support/qemu.ts"

/** Files that a file needs beside it. */
const NEEDS: Readonly<Record<string, readonly string[]>> = {
  "top.qcow2": ["mid.qcow2"], "mid.qcow2": ["base.raw"], "over.qcow2": ["base.qcow2"], "data.qcow2": ["data.raw"],
  "same.qcow2": ["base.qcow2"],
}

/** Makes all images in a new folder, and returns it. */
export function makeFixtures(): string {
  const folder = mkdtempSync(join(tmpdir(), "vioblk-lines-"))
  const at = (name: string): string => join(folder, name)
  const create = (name: string, ...words: string[]) => qemuImg("create", "-q", "-f", "qcow2", at(name), ...words)
  qemuImg("create", "-q", "-f", "raw", at("base.raw"), "1M")
  qemuIo(at("base.raw"), ["write -P 1 0 192k", "write -P 2 512k 64k"], "-f", "raw")
  create("base.qcow2", "2M")
  qemuIo(at("base.qcow2"), ["write -P 3 64k 256k", "write -z 1M 64k"])
  create("mid.qcow2", "-b", "base.raw", "-F", "raw", "2M")
  qemuIo(at("mid.qcow2"), ["write -P 4 128k 128k", "write -z 640k 64k"])
  create("top.qcow2", "-b", "mid.qcow2", "-F", "qcow2", "4M")
  qemuIo(at("top.qcow2"), ["write -P 5 192k 64k", "write -P 6 3M 64k"])
  create("over.qcow2", "-b", "base.qcow2", "-F", "qcow2")
  qemuIo(at("over.qcow2"), ["write -P 7 0 128k"])
  create("same.qcow2", "-b", "base.qcow2", "-F", "qcow2")
  create("missing.qcow2", "-u", "-b", "gone.raw", "-F", "raw", "1M")
  create("v2.qcow2", "-o", "compat=0.10", "1M")
  create("small.qcow2", "-o", "cluster_size=4k,refcount_bits=1", "1M")
  qemuIo(at("small.qcow2"), ["write -P 8 10k 20k"])
  create("ext.qcow2", "-o", "extended_l2=on", "1M")
  qemuIo(at("ext.qcow2"), ["write -P 9 2k 4k"])
  // Made from there: the name of a data file that is made counts from the current directory.
  spawnSync("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "data.qcow2", "1M"], { cwd: folder })
  create("bitmap.qcow2", "1M")
  qemuImg("bitmap", "--add", at("bitmap.qcow2"), "b0")
  qemuIo(at("bitmap.qcow2"), ["write -P 10 64k 64k"])
  create("snap.qcow2", "1M")
  qemuIo(at("snap.qcow2"), ["write -P 11 0 64k"])
  qemuImg("snapshot", "-c", "one", at("snap.qcow2"))
  qemuIo(at("snap.qcow2"), ["write -P 12 0 64k"])
  qemuImg("convert", "-c", "-O", "qcow2", at("base.raw"), at("comp.qcow2"))
  qemuImg("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", at("base.raw"), at("zstd.qcow2"))
  encrypt(folder)
  damage(at)
  writeFileSync(at("odd.raw"), Buffer.alloc(700, 1))
  writeFileSync(at("empty.raw"), "")
  writeFileSync(at("text"), "no image at all\n")
  return folder
}

/** Images that the passphrase in first.key opens, and files with other ones. */
function encrypt(folder: string): void {
  for (const name of ["first", "second", "third"]) writeFileSync(join(folder, `${name}.key`), `${name} passphrase`)
  const object = (id: string, name: string): string[] => ["--object", `secret,id=${id},file=${name}.key`]
  const run = (...words: string[]): void => {
    const { status, stderr } = runQemu("qemu-img", words, { cwd: folder })
    if (status !== 0) throw new Error(`qemu-img ${words.join(" ")}: ${stderr}`)
  }
  const create = (...words: string[]): void => run("create", "-q", ...object("a", "first"), ...words, "1M")
  create("-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=a,encrypt.iter-time=10", "luks.qcow2")
  create("-f", "qcow2", "-o", "encrypt.format=aes,encrypt.key-secret=a", "aes.qcow2")
  create("-f", "luks", "-o", "key-secret=a,iter-time=10,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1", "disk.luks")
  run(
    "amend", ...object("a", "first"), ...object("b", "second"), "-o",
    "encrypt.state=active,encrypt.new-secret=b,encrypt.iter-time=10,encrypt.keyslot=3", "--image-opts",
    "driver=qcow2,encrypt.key-secret=a,file.filename=luks.qcow2",
  )
}

function damage(at: (name: string) => string): void {
  for (const name of ["leak.qcow2", "corrupt.qcow2", "marked.qcow2", "future.qcow2"]) {
    qemuImg("create", "-q", "-f", "qcow2", at(name), "1M")
    qemuIo(at(name), ["write -P 13 0 192k"])
    const bytes = readFileSync(at(name))
    const l2 = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0x00ff_ffff_ffff_fe00n)
    if (name === "leak.qcow2") bytes.fill(0, l2 + 8, l2 + 16)
    // Two guest clusters in one place.
    if (name === "corrupt.qcow2") bytes.copy(bytes, l2 + 8, l2, l2 + 8)
    if (name === "marked.qcow2") bytes[79] = 2
    if (name === "future.qcow2") bytes[72] = 0x80
    writeFileSync(at(name), bytes)
  }
  // Two bitmaps, the first of which somebody has not stored.
  copyFileSync(at("bitmap.qcow2"), at("broken.qcow2"))
  qemuImg("bitmap", "--add", "--disable", "-g", "4k", at("broken.qcow2"), "b1")
  const bytes = readFileSync(at("broken.qcow2"))
  const directory = Number(bytes.readBigUInt64BE(bytes.indexOf(Buffer.from("23852875", "hex")) + 24))
  bytes.writeUInt32BE(bytes.readUInt32BE(directory + 12) | 1, directory + 12)
  writeFileSync(at("broken.qcow2"), bytes)
  copyFileSync(at("base.qcow2"), at("cut.qcow2"))
  truncateSync(at("cut.qcow2"), 100)
}

/** A new folder with what the words of a line name, and what that needs. */
export function copyFixtures(fixtures: string, words: readonly string[]): string {
  const folder = mkdtempSync(join(tmpdir(), "vioblk-line-"))
  const names = readdirSync(fixtures).filter((name) => words.some((word) => word.includes(name)))
  for (const name of names) for (const needed of NEEDS[name] ?? []) if (!names.includes(needed)) names.push(needed)
  for (const name of names) copyFileSync(join(fixtures, name), join(folder, name))
  return folder
}

/** What is in a folder: the names, and when each file was changed. */
export function stateOf(folder: string): ReadonlyMap<string, number> {
  return new Map(readdirSync(folder).map((name) => [name, statSync(join(folder, name), { bigint: false }).mtimeMs]))
}

export function removeFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true })
}
