package audit

import (
	"cmp"
	"runtime"
	"sync"

	"golang.org/x/mod/sumdb/note"
)

// signatureChecks verifies the signatures of checkpoints on all processors: they
// are most of the work of verifying a log with small batches.
type signatureChecks struct {
	jobs    chan signatureJob
	workers sync.WaitGroup

	mu  sync.Mutex
	err error
}

type signatureJob struct {
	cp Checkpoint
	v  note.Verifier
}

func newSignatureChecks() *signatureChecks {
	n := runtime.GOMAXPROCS(0)
	s := &signatureChecks{jobs: make(chan signatureJob, 64*n)}
	for range n {
		s.workers.Go(func() {
			for j := range s.jobs {
				if err := j.cp.verify(j.v); err != nil {
					s.fail(tamperedf("the checkpoint after record %d: %w", j.cp.Size, err))
				}
			}
		})
	}
	return s
}

func (s *signatureChecks) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = cmp.Or(s.err, err)
}

// add has a checkpoint verified by v. It returns the failure of an earlier one.
func (s *signatureChecks) add(cp Checkpoint, v note.Verifier) error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err == nil {
		s.jobs <- signatureJob{cp, v}
	}
	return err
}

// wait returns the failure of any of them. Nothing may be added after.
func (s *signatureChecks) wait() error {
	close(s.jobs)
	s.workers.Wait()
	return s.err
}
