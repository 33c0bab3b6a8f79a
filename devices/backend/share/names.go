package share

import "slices"

// maxDepth bounds how deep below the folder a file may lie that a fid refers to, so that no request walks further up.
const maxDepth = 4096

// nameKey is a name in a directory of the host, whichever node that directory has.
type nameKey struct {
	dir  fileID
	name string
}

func (n *node) key() nameKey { return nameKey{n.parent.id, n.name} }

// nameIndex has all nodes but the folder's own by their names. It is guarded by Session.mu.
type nameIndex map[nameKey][]*node

func (x nameIndex) add(n *node) { x[n.key()] = append(x[n.key()], n) }

func (x nameIndex) remove(n *node) {
	key := n.key()
	list := x[key]
	if i := slices.Index(list, n); i >= 0 {
		list[i] = list[len(list)-1]
		list[len(list)-1] = nil
		list = list[:len(list)-1]
	}
	if len(list) == 0 {
		delete(x, key)
		return
	}
	x[key] = list
}

// find returns the node of a file by its name in the directory with that very node.
func (x nameIndex) find(dir *node, name string, id fileID, typ uint32, hidden bool) *node {
	for _, n := range x[nameKey{dir.id, name}] {
		if n.parent == dir && n.id == id && n.typ == typ && n.hidden == hidden {
			return n
		}
	}
	return nil
}

// above returns n and all nodes above it.
func (n *node) above() map[*node]bool {
	set := make(map[*node]bool)
	for ; n != nil; n = n.parent {
		set[n] = true
	}
	return set
}

// tooDeep reports whether nothing may lie in the directory n.
func (n *node) tooDeep() bool {
	depth := 0
	for ; n != nil; n = n.parent {
		if depth++; depth > maxDepth {
			return true
		}
	}
	return false
}

// deep is tooDeep for who does not hold s.mu.
func (s *Session) deep(n *node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return n.tooDeep()
}
