import { COMMANDS } from '../src/commands/names.ts'
import { valueWord } from '../src/goflag.ts'
import { OPTION_GROUPS, type Option, optionTable, variableOf } from '../src/options.ts'

/** flanneld(8) as groff, from the same tables that the parser and the usage text use. */
export function renderManPage(version: string): string {
  const options: [string, Option][] = Object.entries(optionTable)
  const groups = Object.entries(OPTION_GROUPS).flatMap(([group, title]) => [
    `.SS ${title}`,
    ...options
      .filter(([, option]) => option.group === group)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .flatMap(([name, option]) => describe(name, option)),
  ])
  const commands = Object.entries(COMMANDS).flatMap(([name, { summary }]) => [
    '.TP',
    `.B flanneld ${roff(name)}`,
    roff(summary),
  ])
  return `${[
    `.TH FLANNELD 8 "" "flanneld ${version}" "System Administration"`,
    '.SH NAME',
    'flanneld \\- a layer 3 network between the containers of several hosts',
    '.SH SYNOPSIS',
    '.B flanneld\n[\\fIOPTION\\fR]...\n.br\n.B flanneld\n\\fICOMMAND\\fR [\\fIARGUMENT\\fR]...',
    '.SH DESCRIPTION',
    DESCRIPTION.trim(),
    '.SH COMMANDS',
    ...commands,
    '.SH OPTIONS',
    'As flags of Go: one dash or two, \\fB\\-name=value\\fR or \\fB\\-name value\\fR; a boolean is turned off with \\fB\\-name=false\\fR.',
    'Each but \\fB\\-version\\fR has an environment variable, which the command line beats.',
    ...groups,
    '.SH FILES',
    FILES.trim(),
    '.SH EXIT STATUS',
    '0 stopped as asked, 1 it cannot go on, as with a value that it cannot use (the last line says why), 2 the command line or a variable',
    'cannot be read. Of the commands: status 0 ready, 1 not; doctor 0 well, 1 worth a look, 2 broken; cleanup 1 when something stayed.',
    '.SH SEE ALSO',
    '.BR mk-docker-opts.sh (8)',
  ].join('\n')}\n`
}

const DESCRIPTION = `
Takes the network config from etcd's v2 API (<prefix>/config), leases a subnet there, makes the device flannel.1 with a route, an
ARP and an FDB entry for every other node, and writes the files that Docker reads. When all of that stands it tells systemd
that it is ready; the firewall rules follow. What somebody else deletes or changes is repaired at once.
.PP
At stop the device, routes, rules and the lease stay: containers go on talking.
`

const FILES = `
.TP
.I /run/flannel/subnet.env
the node's subnet, as FLANNEL_NETWORK, FLANNEL_SUBNET, FLANNEL_MTU and FLANNEL_IPMASQ
.TP
.I /run/flannel/docker
DOCKER_NETWORK_OPTIONS for docker.service
.TP
.I /etc/default/flanneld
variables for flanneld.service
.TP
.I /run/flannel/flanneld.sock
where the commands ask the running daemon; for root alone
.TP
.I /run/flannel/wgkey
the private key of the wireguard backend, unless WIREGUARD_KEY_FILE names another
`

function describe(name: string, option: Option): string[] {
  const word = valueWord(option)
  const zero = [false, 0, ''].includes(option.default as string) || Array.isArray(option.default)
  return [
    '.TP',
    `.B \\-${roff(name)}${word === '' ? '' : ` \\fI${word}\\fR`}`,
    roff(`${option.help}${zero ? '' : ` (default ${option.default})`}`),
    ...(name === 'version' ? [] : ['.br', `Variable: ${variableOf(name)}`]),
  ]
}

/** Text as groff takes it: dashes that can be copied, and no line that begins like a request. */
function roff(text: string): string {
  return text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/^[.']/, '\\&$&')
}
