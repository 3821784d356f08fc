package uplink

// SaveAll has the store save everything that is known about tokens, as it is now: its file was lost. It only queues, in the
// order in which things change.
func (t *Tokens[G]) SaveAll() {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for hash, version := range s.gone {
			t.saveRevoked(hash, version)
		}
		for hash, e := range s.known {
			t.save(hash, e)
		}
		s.mu.Unlock()
	}
}
