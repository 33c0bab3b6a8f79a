package kvm

import "testing"

func TestMeasureSpeed(t *testing.T) {
	s := newSystem(t)
	first, err := s.MeasureSpeed()
	check(t, err)
	again, err := s.MeasureSpeed()
	check(t, err)
	if first.Emulating != again.Emulating {
		t.Errorf("first %+v, then %+v", first, again)
	}
	t.Logf("%v", first)
}

func BenchmarkMeasureSpeed(b *testing.B) {
	s := newSystem(b)
	for b.Loop() {
		_, err := s.MeasureSpeed()
		check(b, err)
	}
}
