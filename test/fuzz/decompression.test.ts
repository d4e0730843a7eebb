/** Some seconds of decompression.ts. */
import { expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { itWithZstd } from "../backing/decompression/zstd-frames.ts"
import { askZstd, inflateRound, zstdRound } from "./decompression.ts"

it("QC-CMP-06 a damaged deflate stream is refused, or gives the same bytes as node:zlib", () => {
  const seed = seedFromEnvironment(20261126)
  const [rng, counts] = [new Rng(seed), { accepted: 0, refused: 0, long: 0 }]
  for (let round = 0; round < 6000; round++) inflateRound(rng, counts)
  expect([counts.accepted > 200, counts.refused > 2000], `seed ${seed}: ${JSON.stringify(counts)}`).toEqual([true, true])
})

it("QC-CMP-07 a damaged zstd frame is refused, or changes nothing outside its output", () => {
  const seed = seedFromEnvironment(20261127)
  const [rng, counts] = [new Rng(seed), { accepted: 0, refused: 0, long: 0 }]
  for (let round = 0; round < 6000; round++) zstdRound(rng, counts)
  expect([counts.accepted > 40, counts.refused > 2000], `seed ${seed}: ${JSON.stringify(counts)}`).toEqual([true, true])
})

itWithZstd("QC-CMP-07 zstd accepts each damaged frame that we accept, and gives the same bytes", () => {
  const rng = new Rng(seedFromEnvironment(20261128))
  const counts = { accepted: 0, refused: 0, long: 0 }
  const accepted = []
  while (accepted.length < 300) {
    const found = zstdRound(rng, counts)
    if (found !== undefined) accepted.push(found)
  }
  askZstd(accepted, temporaryDirectory())
})
