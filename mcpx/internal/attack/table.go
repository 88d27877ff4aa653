package attack

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// A Summary counts results.
type Summary struct {
	Pass    int `json:"pass"`
	Fail    int `json:"fail"`
	Unclear int `json:"unclear"`
	Skipped int `json:"skipped"`
}

// Sum counts results.
func Sum(results []Result) (s Summary) {
	for _, r := range results {
		switch r.Verdict {
		case Pass:
			s.Pass++
		case Fail:
			s.Fail++
		case Unclear:
			s.Unclear++
		default:
			s.Skipped++
		}
	}
	return s
}

// Print writes a table of results, and in the end what it cannot hold.
func Print(w io.Writer, t Target, results []Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ID\tCASE\tERA\tEXPECTED\tRESULT\tREASON")
	for _, r := range results {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, clip(r.Case, 60), r.Era, r.Want, r.Verdict, r.Reason)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	s := Sum(results)
	fmt.Fprintf(w, "\n%d pass, %d fail, %d unclear, %d skipped.\n", s.Pass, s.Fail, s.Unclear, s.Skipped)
	if t.Upstream == nil {
		fmt.Fprintln(w, "The upstream was not seen: these are the endpoint's own answers, and what only an upstream could tell is unclear.")
	}
	fmt.Fprintln(w, "Rows that do not show at an endpoint alone, and Twinward's tests of them:")
	for _, e := range Elsewhere {
		fmt.Fprintf(w, "  %-4s %s: %s in %s\n", e.ID, e.What, e.Test, e.Package)
	}
	return nil
}

// PrintJSON writes results for programs.
func PrintJSON(w io.Writer, results []Result) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		Summary Summary  `json:"summary"`
		Results []Result `json:"results"`
	}{Sum(results), results})
}
