package audit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Subject is whose values something is about: those of an agent, of a user that
// agents acted for, of an agent when it acted for that user, or of records by
// their numbers. All that is set must fit.
type Subject struct {
	Agent   string
	User    string
	Records []uint64
}

// maxSubjectRecords is how many records fit into the record of an act.
const maxSubjectRecords = 2000

// IsZero reports whether nobody is named.
func (s Subject) IsZero() bool { return s.Agent == "" && s.User == "" && len(s.Records) == 0 }

// onRecord is a name as records have it: their JSON holds no invalid UTF-8.
func onRecord(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return string([]rune(name))
}

func (s Subject) onRecord() Subject {
	s.Agent, s.User = onRecord(s.Agent), onRecord(s.User)
	return s
}

// Covers reports whether a record is one of the subject's. An outcome is with its
// intent, if it comes with it: on record it does not say whose it is.
func (s Subject) Covers(r Record) bool {
	a := r.Actor()
	return s.onRecord().fits(a.Agent, a.User) &&
		(len(s.Records) == 0 || slices.Contains(s.Records, r.Seq) || r.Call != 0 && slices.Contains(s.Records, r.Call))
}

// mayCover is Covers of a record as [acts.of] returns it. Whose outcome it is whose
// intent was pruned, nobody knows: it may be anybody's.
func (s Subject) mayCover(r Record) bool {
	if r.Outcome != nil && r.Intent == nil {
		s.Agent, s.User = "", ""
	}
	return s.Covers(r)
}

// fits expects the names of a subject, and those of a record, as they are on record.
func (s Subject) fits(agent, user string) bool {
	return (s.Agent == "" || s.Agent == agent) && (s.User == "" || s.User == user)
}

// detail is the subject on record.
func (s Subject) detail() (map[string]string, error) {
	if len(s.Records) > maxSubjectRecords {
		return nil, fmt.Errorf("%w: more than %d records at a time", ErrInvalid, maxSubjectRecords)
	}
	d := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			d[key] = value
		}
	}
	set("agent", s.Agent)
	set("user", s.User)
	numbers := make([]string, len(s.Records))
	for i, n := range s.Records {
		if n == 0 {
			return nil, fmt.Errorf("%w: records are numbered from 1", ErrInvalid)
		}
		numbers[i] = strconv.FormatUint(n, 10)
	}
	set("records", strings.Join(numbers, " "))
	return d, nil
}

// parseSubject is the inverse of [Subject.detail].
func parseSubject(d map[string]string) (Subject, error) {
	s := Subject{Agent: d["agent"], User: d["user"]}
	for _, text := range strings.Fields(d["records"]) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n == 0 || len(s.Records) == maxSubjectRecords {
			return Subject{}, fmt.Errorf("%w: its list of records", ErrInvalid)
		}
		s.Records = append(s.Records, n)
	}
	return s, nil
}
