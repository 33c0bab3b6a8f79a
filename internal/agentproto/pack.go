package agentproto

// The command Packer is the agent's own binary, in any guest and whatever its root. With EnvPack in its environment it
// writes that folder to its standard output, as tar, and ends.
const (
	// EnvPack is the folder.
	EnvPack = "STILE_AGENT_PACK"
	// EnvPackSince leaves out files that were not changed since then, in ns since 1970.
	EnvPackSince = "STILE_AGENT_PACK_SINCE"
	// Packer is the command's name. No file can have it: it is a path with an empty one behind a folder's.
	Packer = "stile-agent/"
)
