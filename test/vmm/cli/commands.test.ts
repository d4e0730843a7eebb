/** The commands info, check, create and map, against qemu-img on the same images. */
import { closeSync, existsSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { commandLine } from "../../support/command-line.ts"
import { copyGolden, goldenImages } from "../../support/golden.ts"
import { itWithQemu, qemuCheck, qemuImg, qemuIo } from "../../support/qemu.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

/** An overlay with data of its own, zeroes, and a backing file that is shorter. */
function overlay(folder: string): string {
  const base = join(folder, "base.qcow2")
  const path = join(folder, "overlay.qcow2")
  qemuImg("create", "-q", "-f", "qcow2", base, "1M")
  qemuIo(base, ["write -P 1 128k 256k"])
  qemuImg("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", path, "4M")
  qemuIo(path, ["write -P 2 192k 64k", "write -z 320k 64k", "write -P 3 3M 128k"])
  qemuImg("snapshot", "-c", "before", path)
  return path
}

describe("vioblk info", () => {
  itWithQemu("prints for an image with all features what qemu-img info prints", async () => {
    const path = overlay(temporaryDirectory())
    const ours = JSON.parse((await commandLine("info", "--json", path)).out)
    const theirs = JSON.parse(qemuImg("info", "--output=json", path))
    expect(ours).toEqual(theirs)
    expect((await commandLine("info", path)).out).toMatch(/^virtual size: 4 MiB \(4194304 bytes\)$/m)
  })

  itWithQemu("does so for version 2, external data files and every image of a chain, as a tree too", async () => {
    const folder = temporaryDirectory()
    const path = overlay(folder)
    const [old, data, odd] = [join(folder, "old.qcow2"), join(folder, "data.qcow2"), join(folder, "odd.raw")]
    qemuImg("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", "../gone", "-F", "raw", "-u", old, "1M")
    qemuImg("create", "-q", "-f", "qcow2", "-o", `data_file=${folder}/data.raw,data_file_raw=on`, data, "1M")
    writeFileSync(odd, Buffer.alloc(700))
    for (const words of [[old], ["--backing-chain", path], ["-f", "raw", odd], ["-U", path]]) {
      expect(JSON.parse((await commandLine("info", "--output=json", ...words)).out)).toEqual(
        JSON.parse(qemuImg("info", "--output=json", ...words)),
      )
    }
    // What is allocated is the sum of both files to qemu-img.
    expect({ ...JSON.parse((await commandLine("info", "--json", data)).out), "actual-size": 0 }).toEqual(
      { ...JSON.parse(qemuImg("info", "--output=json", data)), "actual-size": 0 },
    )
    expect((await commandLine("info", "--backing-chain", path)).out).toMatch(
      /^\S+overlay\.qcow2 \(qcow2, 4 MiB, .*\n└─ \S+base\.qcow2 \(qcow2, 1 MiB, /,
    )
    expect((await commandLine("info", "--backing-chain", old)).code).toBe(1)
  })

  it("refuses a chain that leads back to itself", async () => {
    const path = join(temporaryDirectory(), "loop.qcow2")
    expect((await commandLine("create", "-q", "-f", "qcow2", "-u", "-b", "loop.qcow2", "-F", "qcow2", path, "1M")).code).toBe(0)
    expect((await commandLine("info", "--backing-chain", path)).err).toContain("leads to")
  })

  it("refuses an image that another opening writes to, unless -U is given", async () => {
    const path = join(temporaryDirectory(), "busy.qcow2")
    createImage(path, { size: 1 << 20 })
    const image = openImage(path)
    for (const command of ["info", "check", "map"]) {
      expect((await commandLine(command, path)).code).toBe(1)
      expect((await commandLine(command, "-U", path)).code).toBe(0)
    }
    image.close()
  })

  it("shows an image that cannot be opened, and works without its backing file", async () => {
    const golden = copyGolden(temporaryDirectory())
    expect((await commandLine("info", join(golden, "extended-l2.qcow2"))).out).toContain("extended l2: true")
    expect(JSON.parse((await commandLine("info", "--json", join(golden, "dirty.qcow2"))).out)).toMatchObject({ "dirty-flag": true })
  })
})

describe("vioblk check", () => {
  itWithQemu("has the exit codes and counts of qemu-img check, and repairs", async () => {
    const folder = temporaryDirectory()
    const path = join(folder, "leak.qcow2")
    qemuImg("create", "-q", "-f", "qcow2", path, "1M")
    qemuIo(path, ["write -P 1 0 128k"])
    expect(await commandLine("check", path)).toMatchObject({ code: 0, err: "" })
    // The L2 entry of the second cluster goes away: its cluster is leaked.
    const bytes = readFileSync(path)
    const l2 = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0x00ff_ffff_ffff_fe00n)
    bytes.fill(0, l2 + 8, l2 + 16)
    writeFileSync(path, bytes)
    const { code, out } = await commandLine("check", "--json", path)
    expect({ code, ...JSON.parse(out) }).toMatchObject({ code: qemuCheck(path).exitCode, "check-errors": 0, format: "qcow2", leaks: 1 })
    expect((await commandLine("check", "--repair", "leaks", path)).out).toContain("repaired: 0 errors, 1 leaked clusters")
    expect(qemuCheck(path).exitCode).toBe(0)
  })

  it("distinguishes an image that was not closed cleanly from a damaged one", async () => {
    const golden = copyGolden(temporaryDirectory())
    const unclean = await commandLine("check", join(golden, "dirty.qcow2"))
    expect(unclean).toMatchObject({ code: 2, err: "" })
    expect(unclean.out).toContain("has refcount 0 and 1 reference\n")
    expect(unclean.out).toMatch(/^80 errors: the image was not closed cleanly; opening it for writing repairs it/m)
    expect(unclean.out).not.toContain("damaged")
  })

  it.each([
    ["a raw image", 63, "base-long.raw", "a raw image has nothing to check"],
    ["a missing image", 1, "gone.qcow2", "cannot open: no such file"],
  ])("cannot check %s: exit code %i", async (_what, code, name, reason) => {
    const path = join(copyGolden(temporaryDirectory()), name)
    expect(await commandLine("check", path)).toEqual({ code, out: "", err: `vioblk: ${path}: ${reason}\n` })
  })

  it.each([
    [["--repair", "everything", "x"], "--repair everything: it must be leaks or all"],
    [["--repair", "x.qcow2"], "--repair x.qcow2: it must be leaks or all"],
    [["--output", "yaml", "x"], "--output yaml: it must be human or json"],
    [[], "the name of the image is missing"],
    [[""], "the name of the image is empty"],
  ])("exits with 1, not with 2 for corrupt, if its arguments are wrong: %j", async (args, reason) => {
    expect(await commandLine("check", ...args)).toEqual({ code: 1, out: "", err: `vioblk: ${reason}; see vioblk check --help\n` })
  })
})

describe("vioblk create", () => {
  itWithQemu("makes the same image as qemu-img create with the same options", async () => {
    const folder = temporaryDirectory()
    const [ours, theirs] = [join(folder, "ours.qcow2"), join(folder, "theirs.qcow2")]
    expect(
      await commandLine("create", "-f", "qcow2", "--cluster-size", "4K", "--refcount-bits", "1", "--lazy-refcounts", ours, "10G"),
    ).toMatchObject({ code: 0, err: "" })
    qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k,refcount_bits=1,lazy_refcounts=on", theirs, "10G")
    const facts = (path: string) => {
      const { filename, "actual-size": size, ...rest } = JSON.parse(qemuImg("info", "--output=json", path))
      return rest
    }
    expect(facts(ours)).toEqual(facts(theirs))
    expect(qemuCheck(ours).exitCode).toBe(0)
  })

  it("takes the size from the backing file, and never overwrites a file", async () => {
    const golden = copyGolden(temporaryDirectory())
    const path = join(golden, "new.qcow2")
    const size = goldenImages.find(({ file }) => file === "v3-4k.qcow2")?.size
    expect(
      await commandLine("create", "-f", "qcow2", "--backing", "v3-4k.qcow2", "--backing-format", "qcow2", path),
    ).toMatchObject({ code: 0, err: "" })
    expect(
      JSON.parse((await commandLine("info", "--json", path)).out),
    ).toMatchObject({ "virtual-size": size, "backing-filename": "v3-4k.qcow2" })
    const before = readFileSync(path)
    expect((await commandLine("create", path, "1M")).code).toBe(1)
    expect(readFileSync(path).equals(before)).toBe(true)
  })

  it.each([
    ["create", "-f", "qcow2"], ["convert", "-O", "qcow2", "source.raw"],
  ])("%s allocates space in the data file, not in the image", async (...words) => {
    const folder = temporaryDirectory()
    const given = words.map((word) => word === "source.raw" ? join(folder, word) : word)
    writeFileSync(join(folder, "source.raw"), new Uint8Array(4 << 20))
    for (const kind of ["metadata", "full", "falloc"]) {
      const options = ["-q", "-o", `data_file=${kind}.raw,preallocation=${kind}`, join(folder, `${kind}.qcow2`)]
      await commandLine(...given, ...words[0] === "create" ? [...options, "4M"] : options)
    }
    const blocks = (name: string): number => statSync(join(folder, name)).blocks
    expect(["full.raw", "falloc.raw", "metadata.raw"].map((name) => blocks(name) >= 8192)).toEqual([true, true, false])
    expect([blocks("full.qcow2"), blocks("falloc.qcow2")]).toEqual([blocks("metadata.qcow2"), blocks("metadata.qcow2")])
  })

  it.each(["raw", "qcow2"])("prints the size of the new disk in whole sectors: %s", async (format) => {
    const path = join(temporaryDirectory(), "odd")
    expect(await commandLine("create", "--format", format, path, "700")).toEqual({
      code: 0, out: `created ${path}: ${format}, 1 KiB\n`, err: "",
    })
    expect(JSON.parse((await commandLine("info", "--json", path)).out)).toMatchObject({ format, "virtual-size": 1024 })
  })

  it.each([
    [["create"], "the name of the image is missing"],
    [["create", "", "1M"], "the name of the image is empty"],
    [["create", "-f", "qcow2", "x.qcow2", "1M", "--backing", ""], "--backing: the name of the backing file is empty"],
    [["create", "x.qcow2"], "create needs a size, or a backing file to take it from"],
    [["create", "x.qcow2", "lots"], "SIZE lots: it must be a number of bytes below 2^63, or one with k, M, G, T, P or E"],
    [["create", "x.qcow2", "99999999T"], "SIZE 99999999T: it must be a number of bytes below 2^63, or one with k, M, G, T, P or E"],
  ])("refuses %j", async (args, reason) => {
    expect(await commandLine(...args)).toEqual({ code: 1, out: "", err: `vioblk: ${reason}; see vioblk create --help\n` })
    expect(existsSync("x.qcow2")).toBe(false)
  })
})

describe("vioblk map", () => {
  itWithQemu("prints what qemu-img map prints, for holes, depths, files that end early and ranges", async () => {
    const folder = temporaryDirectory()
    const path = overlay(folder)
    const raw = join(folder, "disk.raw")
    const odd = join(folder, "odd.raw")
    writeFileSync(odd, Buffer.alloc(700, 1))
    qemuImg("create", "-q", "-f", "raw", raw, "4M")
    qemuIo(raw, ["write -P 1 1M 64k"], "-f", "raw")
    const onRaw = join(folder, "on-raw.qcow2")
    qemuImg("create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", onRaw, "8M")
    const compressed = join(folder, "compressed.qcow2")
    qemuImg("convert", "-c", "-O", "qcow2", raw, compressed)
    const ours = async (...words: string[]) => {
      const parts: Record<string, unknown>[] = JSON.parse((await commandLine("map", "--output=json", ...words)).out)
      return parts.map(({ filename, compressed: _, ...rest }) => rest)
    }
    for (const words of [
      [path], [raw], ["-f", "raw", odd], [onRaw], [compressed], ["-s", "100", "-l", "1k", raw], ["-s", "1M", onRaw], ["-s", "8M", onRaw],
      ["--max-length=3M", onRaw],
    ]) {
      expect([words, await ours(...words)]).toEqual([words, JSON.parse(qemuImg("map", "--output=json", ...words))])
    }
    const table = (text: string) => text.replaceAll(`${folder}/`, "").replace(/ +/g, " ")
    for (const words of [[path], [raw], [onRaw]]) {
      expect(table((await commandLine("map", ...words)).out)).toBe(table(qemuImg("map", ...words)))
    }
  })

  it("prints an image of many parts as many lines, and as one JSON document", async () => {
    const path = join(temporaryDirectory(), "many.raw")
    const fd = openSync(path, "w")
    for (let at = 0; at < 4096; at++) writeSync(fd, Buffer.from([1]), 0, 1, at * 8192)
    closeSync(fd)
    const { code, out } = await commandLine("map", "--json", path)
    const parts: readonly { readonly length: number }[] = JSON.parse(out)
    expect(code).toBe(0)
    expect(parts.reduce((sum, { length }) => sum + length, 0)).toBe(4095 * 8192 + 512)
    expect(out.split("\n")).toHaveLength(parts.length + 1)
  })
})
