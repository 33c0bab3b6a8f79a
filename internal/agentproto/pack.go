package agentproto

// A process of the agent's binary whose environment has EnvPack writes that folder to its standard output, as
// tar, and ends. Packer runs it in any guest, whatever its root.
const (
	// EnvPack is the folder.
	EnvPack = "STILE_AGENT_PACK"
	// EnvPackSince leaves out files that were not changed since then, in ns since 1970.
	EnvPackSince = "STILE_AGENT_PACK_SINCE"
	// Packer is the agent's binary.
	Packer = "/proc/1/exe"
)
