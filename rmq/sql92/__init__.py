"""SQL92 filters: text -> grammar -> closures. rmq/filter.py is the way in; the first expression loads it."""
