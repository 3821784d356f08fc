package pluginhost

import (
	"testing"
)

func TestAProcessThatIsNotWantedAnyMoreIsNotStarted(t *testing.T) {
	r, err := newGroupRunner(&Plugin{Path: named(t, "mute")})
	if err != nil {
		t.Fatal(err)
	}
	defer r.signalGroup()
	r.killGroup()
	if err := r.Start(t.Context()); err == nil {
		t.Error("it was started")
	}
	select {
	case <-r.exited:
	default:
		t.Error("somebody would wait for its end for ever")
	}
}

// The end may come at any time of the start: whichever of the two is later has to see the other.
func TestAProcessThatIsGivenUpDuringItsStartEnds(t *testing.T) {
	path := named(t, "mute")
	for range 20 {
		r, err := newGroupRunner(&Plugin{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		killed := make(chan struct{})
		go func() { defer close(killed); r.killGroup() }()
		_ = r.Start(t.Context())
		<-killed
		<-r.exited
	}
}
