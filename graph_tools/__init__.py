"""Models to models: what is read, brought to one form, differentiated and written; knows no runtime."""
