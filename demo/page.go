package demo

import (
	"context"
	"io"
)

func servePage(ctx context.Context, s *stage, listen string, out io.Writer) error { return nil }
