#!/usr/bin/env bash
# Packs the project, installs the tarball in empty projects, and uses it there: from JavaScript, from TypeScript, as a command, and in pages.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

npm pack --silent --pack-destination "$work" >/dev/null
tarball=$(ls "$work"/vioblk-*.tgz)
# Whatever is not built from src does not belong in it.
if tar -tzf "$tarball" | grep -vE '^package/(dist/.*\.(js|d\.ts)|package\.json|README\.md|CHANGELOG\.md|LICENSE)$'; then
  echo "the package contains what it should not"
  exit 1
fi

mkdir "$work/js" "$work/ts" "$work/pages"
(
  cd "$work/js"
  npm init -y >/dev/null
  npm install --silent --no-audit --no-fund "$tarball"
  cp "$root/test/package/use.mjs" .
  node use.mjs
  # The package has no CommonJS build. Node that can require ES modules (20.19, 22.12 and later) gives the same module to both.
  cat >use.cjs <<'JS'
if (process.features.require_module) {
  const vioblk = require("vioblk")
  import("vioblk").then((module) => process.exit(module.VirtioBlk === vioblk.VirtioBlk ? 0 : 1))
} else {
  try {
    require("vioblk")
    process.exit(1)
  } catch (error) {
    process.exit(error.code === "ERR_REQUIRE_ESM" ? 0 : 1)
  }
}
JS
  node use.cjs
  echo "require: ok"
  npx --no-install vioblk --json | node -e 'const r = JSON.parse(require("node:fs").readFileSync(0, "utf8")); if (!r.equal) process.exit(1); console.log("command: ok")'
  test "$(npx --no-install vioblk --version)" = "vioblk $(node -p 'require("./node_modules/vioblk/package.json").version')"
  npx --no-install vioblk create -q -f qcow2 disk.qcow2 1G
  npx --no-install vioblk info --output=json disk.qcow2 | grep -q '"virtual-size": 1073741824'
  npx --no-install vioblk map disk.qcow2 >/dev/null
  echo "commands: ok"
  test "$(npm ls --omit=dev --parseable --all | grep -c node_modules)" = 1
)
(
  cd "$work/ts"
  npm init -y >/dev/null
  npm pkg set type=module
  npm install --silent --no-audit --no-fund "$tarball"
  # The oldest compiler that the README names, and the one that builds the package.
  npm install --silent --no-audit --no-fund --prefix oldest typescript@5.4
  cp "$root/test/package/use.ts" "$root/test/package/using.ts" .
  for tsc in oldest/node_modules/.bin/tsc "$root/node_modules/.bin/tsc"; do
    for resolution in nodenext bundler; do
      module=$resolution
      [ "$resolution" = bundler ] && module=esnext
      # A strict consumer that checks declarations, and has neither @types/node nor the DOM's types.
      cat >tsconfig.json <<JSON
{
  "compilerOptions": {
    "strict": true, "exactOptionalPropertyTypes": true, "noUncheckedIndexedAccess": true, "skipLibCheck": false, "noEmit": true,
    "module": "$module", "moduleResolution": "$resolution", "target": "es2022", "lib": ["es2022"], "types": []
  },
  "files": ["use.ts"]
}
JSON
      "$tsc" -p .
    done
    # Closed by `using` and `await using`: the compiler makes what Node 20 runs.
    cat >tsconfig.json <<JSON
{
  "compilerOptions": {
    "strict": true, "exactOptionalPropertyTypes": true, "skipLibCheck": false, "module": "nodenext", "target": "es2022",
    "lib": ["es2022", "esnext.disposable", "dom"], "types": [], "outDir": "built"
  },
  "files": ["using.ts"]
}
JSON
    "$tsc" -p .
    rm -f using.qcow2
    node built/using.js
    echo "types: ok with TypeScript $("$tsc" --version | grep -oE '[0-9.]+')"
  done
)
# The types of a page: those of the condition "browser".
(
  cd "$work/ts"
  cat >page.ts <<'TS'
import { Machine, MemoryBacking } from "vioblk"
// @ts-expect-error: a page has no paths of the host
import { openImage } from "vioblk"
new Machine({ ramSize: 1 << 24 }).attachDisk(new MemoryBacking({ size: 512 }))
export const missing: unknown = openImage
TS
  cat >tsconfig.json <<'JSON'
{
  "compilerOptions": {
    "strict": true, "skipLibCheck": false, "noEmit": true, "module": "esnext", "moduleResolution": "bundler", "customConditions": ["browser"],
    "target": "es2022", "lib": ["es2022"], "types": []
  },
  "files": ["page.ts"]
}
JSON
  "$root/node_modules/.bin/tsc" -p .
  echo "types of a page: ok"
)
npx tsx test/package/pages.ts "$tarball" "$work/pages"
