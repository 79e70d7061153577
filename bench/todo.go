package main

import (
	"context"
	"encoding/json"
	"errors"
)

func decode(b []byte, v any) error                         { return json.Unmarshal(b, v) }
func measureP1(ctx context.Context, l *lab) ([]Row, error) { return nil, errors.New("todo") }
func measureP4(ctx context.Context, l *lab) ([]Row, error) { return nil, errors.New("todo") }
func writePage([]Row) error                                { return nil }
