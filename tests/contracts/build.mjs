// Compiles tests/contracts/src/*.sol into one JSON artifact per contract.
//
//   node tests/contracts/build.mjs            write tests/contracts/artifacts
//   node tests/contracts/build.mjs --check    compare with them instead; exit 1 on a difference
//
// The output depends on the sources, the pinned compiler and the settings below, and on nothing else: no metadata
// hash, no paths, no dates. `build.sha256` says of which files it was made and what came out, so that it can be seen
// without compiling that nothing has changed since.

import crypto from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import solc from 'solc'

const here = path.dirname(fileURLToPath(import.meta.url))
const sourceFolder = path.join(here, 'src')
const artifactFolder = path.join(here, 'artifacts')

const sources = Object.fromEntries(
  fs
    .readdirSync(sourceFolder)
    .filter((name) => name.endsWith('.sol'))
    .sort()
    .map((name) => [name, { content: fs.readFileSync(path.join(sourceFolder, name), 'utf8') }]),
)
const settings = {
  evmVersion: 'cancun',
  optimizer: { enabled: true, runs: 200 },
  metadata: { appendCBOR: false, bytecodeHash: 'none' },
  outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object'] } },
}

const output = JSON.parse(solc.compile(JSON.stringify({ language: 'Solidity', sources, settings })))
const complaints = (output.errors ?? []).map((error) => error.formattedMessage)
if (complaints.length > 0) {
  console.error(complaints.join('\n'))
  process.exit(1)
}

const artifacts = {}
for (const contracts of Object.values(output.contracts)) {
  for (const [name, { abi, evm }] of Object.entries(contracts)) {
    if (evm.bytecode.object === '') continue // interfaces and abstract contracts
    const artifact = {
      contractName: name,
      compiler: solc.version(),
      abi,
      bytecode: '0x' + evm.bytecode.object,
      deployedBytecode: '0x' + evm.deployedBytecode.object,
    }
    artifacts[name + '.json'] = JSON.stringify(artifact, null, 1) + '\n'
  }
}

if (process.argv.includes('--check')) {
  const committed = fs.readdirSync(artifactFolder).filter((name) => name.endsWith('.json'))
  const names = new Set([...committed, ...Object.keys(artifacts)])
  const stale = [...names].filter((name) => {
    const file = path.join(artifactFolder, name)
    return !fs.existsSync(file) || fs.readFileSync(file, 'utf8') !== artifacts[name]
  })
  if (stale.length > 0) {
    console.error(`differs from its source: ${stale.join(', ')}; run: npm run contracts`)
    process.exit(1)
  }
} else {
  fs.rmSync(artifactFolder, { recursive: true, force: true })
  fs.mkdirSync(artifactFolder)
  for (const [name, text] of Object.entries(artifacts)) fs.writeFileSync(path.join(artifactFolder, name), text)
  const files = ['build.mjs', ...Object.keys(sources).map((name) => `src/${name}`)]
  const made = Object.keys(artifacts).map((name) => `artifacts/${name}`)
  const lines = [...files, ...made].sort().map((file) => {
    const content = fs.readFileSync(path.join(here, file))
    return `${crypto.createHash('sha256').update(content).digest('hex')}  ${file}\n`
  })
  fs.writeFileSync(path.join(here, 'build.sha256'), lines.join(''))
}
