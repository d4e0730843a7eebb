/** The map of metadata: exact whatever happens, and without walking the tables again. */
import { describe, expect, it } from "vitest"
import { ClusterFilter } from "../../../src/backing/qcow2/metadata/cluster-filter.ts"
import { ClusterIndex } from "../../../src/backing/qcow2/metadata/cluster-index.ts"
import { MetadataMap } from "../../../src/backing/qcow2/metadata/metadata-map.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(23)

describe(`which clusters a table names, seed ${seed}`, () => {
  it("agrees with a plain count of each cluster, through growth and removal", () => {
    const rng = new Rng(seed)
    for (const [range, most] of [[40, 64], [3000, 1 << 20], [2 ** 44, 1 << 22]] as const) {
      const counts = new Map<number, number>()
      const pick = () => Math.floor(rng.below(2 ** 30) * (range / 2 ** 30))
      const first = Array.from({ length: 100 }, pick)
      for (const cluster of first) counts.set(cluster, (counts.get(cluster) ?? 0) + 1)
      const index = new ClusterIndex({ mostEntries: most, forEach: (visit) => first.forEach(visit) })
      const recent = first.slice()
      for (let step = 0; step < 10_000; step++) {
        const cluster = rng.chance(0.5) ? pick() : rng.pick(recent)
        recent[rng.below(recent.length)] = cluster
        const count = counts.get(cluster) ?? 0
        if (index.has(cluster) !== count > 0) throw new Error(`step ${step}: cluster ${cluster} has ${count} names`)
        if (rng.chance(step < 5000 ? 0.7 : 0.3)) {
          index.add(cluster)
          counts.set(cluster, count + 1)
        } else {
          index.remove(cluster)
          if (count > 1) counts.set(cluster, count - 1)
          else counts.delete(cluster)
        }
        if (step % 1000 !== 0) continue
        const seen: number[] = []
        index.forEach((member) => seen.push(member))
        expect(seen.sort((a, b) => a - b)).toEqual([...counts.keys()].sort((a, b) => a - b))
        expect(index.size).toBe(counts.size)
      }
    }
  })

  it("a filter never says no to a member, and says when it is too small", () => {
    const filter = new ClusterFilter(10)
    const members = Array.from({ length: 600 }, (_, index) => index * 12_345_677)
    for (const cluster of members) filter.add(cluster)
    expect(members.every((cluster) => filter.mayHave(cluster))).toBe(true)
    expect(filter.mayHave(5)).toBe(false)
    expect([filter.isFull, new ClusterFilter(600).isFull]).toEqual([true, false])
  })
})

it("QC-OVL-01 the tables are walked once, when the map is made, however many queries hit its filter", () => {
  let walks = 0
  // Every cluster of the list shares its bit of the filter with clusters that are asked about.
  const tables = Array.from({ length: 1000 }, (_, index) => 2 ** 26 * (index + 1))
  const l2Tables = { mostEntries: 4096, forEach: (visit: (cluster: number) => void) => (walks++, tables.forEach(visit)) }
  const map = new MetadataMap(512, { l2Tables, refcountBlocks: { mostEntries: 64, forEach: () => undefined } })
  const walked = walks
  for (let question = 0; question < 1000; question++) expect(map.findForData(2 ** 26 * 512 * (2000 + question), 512)).toBeUndefined()
  expect(map.findForData(2 ** 26 * 512, 1024)).toBe("an L2 table")
  map.removeL2Table(2 ** 26 * 512)
  expect(map.findForData(2 ** 26 * 512, 1024)).toBeUndefined()
  map.addRefcountBlock(2 ** 26 * 512)
  expect(map.findForData(2 ** 26 * 512 - 512, 1024)).toBe("a refcount block")
  expect(walks).toBe(walked)
})
