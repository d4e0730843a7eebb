/** The commands info, check, create and map, against qemu-img on the same images. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
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
  itWithQemu("says of an image with everything what qemu-img info says", async () => {
    const path = overlay(temporaryDirectory())
    const ours = JSON.parse((await commandLine("info", "--json", path)).out)
    const theirs = JSON.parse(qemuImg("info", "--output=json", path))
    const { snapshots, ...rest } = theirs
    expect(ours).toMatchObject(rest)
    expect(ours.snapshots).toMatchObject([{ id: "1", name: "before", "vm-state-size": 0, "date-sec": snapshots[0]["date-sec"] }])
    expect((await commandLine("info", path)).out).toMatch(/^virtual size: 4 MiB \(4194304 bytes\)$/m)
  })

  it("shows an image that cannot be opened, and does not need its backing file", async () => {
    const golden = copyGolden(temporaryDirectory())
    expect((await commandLine("info", join(golden, "extended-l2.qcow2"))).out).toContain("extended l2: true")
    expect(JSON.parse((await commandLine("info", "--json", join(golden, "dirty.qcow2"))).out)).toMatchObject({ "dirty-flag": true })
  })
})

describe("vioblk check", () => {
  itWithQemu("exits and counts as qemu-img check does, and repairs", async () => {
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

  it("tells an image that was not closed cleanly from one that is damaged", async () => {
    const golden = copyGolden(temporaryDirectory())
    const unclean = await commandLine("check", join(golden, "dirty.qcow2"))
    expect(unclean).toMatchObject({ code: 2, err: "" })
    expect(unclean.out).toContain("has refcount 0 and 1 reference\n")
    expect(unclean.out).toMatch(/^80 errors: the image was not closed cleanly; opening it for writing mends that/m)
    expect(unclean.out).not.toContain("damaged")
  })

  it.each([
    ["a raw image", 63, "base-long.raw", "a raw image has nothing to check"],
    ["an image that is not there", 1, "gone.qcow2", "cannot open: no such file"],
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
  ])("exits with 1, not with 2 for corrupt, when its arguments make no sense: %j", async (args, reason) => {
    expect(await commandLine("check", ...args)).toEqual({ code: 1, out: "", err: `vioblk: ${reason}; see vioblk check --help\n` })
  })
})

describe("vioblk create", () => {
  itWithQemu("makes what qemu-img create makes of the same options", async () => {
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

  it("takes the size from the backing file, and never overwrites", async () => {
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

  it.each(["raw", "qcow2"])("says how large the disk is that it has made: whole sectors, %s", async (format) => {
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
  itWithQemu("finds the same places as qemu-img map, through the backing file", async () => {
    const path = overlay(temporaryDirectory())
    interface Part {
      start: number
      length: number
      depth: number
      zero: boolean
      data: boolean
      offset?: number
    }
    // Neighbours that QEMU keeps apart, or not, are no difference: compare cluster by cluster.
    const clusters = (parts: readonly Part[]) =>
      parts.flatMap(({ start, length, depth, zero, data, offset }) =>
        Array.from(
          { length: length / 65536 },
          (_, i) => ({ at: start + i * 65536, zero, ...(data && { depth, offset: (offset ?? Number.NaN) + i * 65536 }) }),
        ),
      )
    const ours = clusters(JSON.parse((await commandLine("map", "--json", path)).out))
    expect(ours).toEqual(clusters(JSON.parse(qemuImg("map", "--output=json", path))))
    expect(ours).toHaveLength(64)
  })
})
